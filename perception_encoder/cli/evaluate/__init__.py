"""The commands of `pe eval`."""
