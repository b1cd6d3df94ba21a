"""What is judged: the cases, their inputs, and the records of results."""
