"""The index of a directory: rows, updates, snapshots."""
