"""Compares a Keras model and a PyTorch module."""
