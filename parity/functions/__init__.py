"""A user's own functions: called, compared, recorded, run in another process."""
