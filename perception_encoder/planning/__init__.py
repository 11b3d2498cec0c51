"""Parameters, FLOPs, memory and time of a run."""
