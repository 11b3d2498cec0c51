"""The commands of `pe data`."""
