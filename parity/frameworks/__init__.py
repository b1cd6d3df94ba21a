"""The frameworks: which are installed, the environment of their processes, and gradients."""
