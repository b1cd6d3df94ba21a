"""Speed and memory of our losses beside their peers, in the same run: `python -m benchmarks`."""
