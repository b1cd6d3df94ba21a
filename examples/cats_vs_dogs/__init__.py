"""Cats against dogs: the clipped loss and the unclipped one, in Keras and in PyTorch."""
