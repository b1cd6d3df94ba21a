"""The same small network trained in every implementation."""
