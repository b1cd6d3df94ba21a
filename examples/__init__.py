"""Programs that run from a clone; each does the same in both frameworks."""
