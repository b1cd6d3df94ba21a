"""What a person reads: tables, figures, the page, JUnit."""
