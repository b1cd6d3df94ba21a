"""The output for people: tables, figures, the page, JUnit."""
