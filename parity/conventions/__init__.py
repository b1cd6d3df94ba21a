"""The cross entropy of a sigmoid, as each installed framework computes it."""
