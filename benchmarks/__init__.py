"""Speed and memory of our losses and their counterparts, in one run: `python -m benchmarks`."""
