"""`pe annotate` and `pe video-dataset`."""
