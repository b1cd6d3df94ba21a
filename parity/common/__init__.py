"""What all subpackages use: arrays, files, processes, tolerances, findings."""
