"""What every room uses: arrays, files, processes, tolerances, findings."""
