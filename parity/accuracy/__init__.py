"""How far off: errors, their bounds, measurements, and the dense sweep."""
