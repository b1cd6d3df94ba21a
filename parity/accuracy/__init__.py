"""Accuracy: errors, their bounds, measurements, and the dense sweep."""
