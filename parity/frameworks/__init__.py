"""The frameworks: what is installed, its processes' environment, and gradients."""
