"""The suite: the cases, their inputs, and the records of results."""
