"""A Keras model and a PyTorch module held against each other."""
