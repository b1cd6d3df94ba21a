"""What one line of code, the cross entropy of a sigmoid, gives in each framework."""
