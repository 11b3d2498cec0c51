"""Checkpoints: files, the layouts of every library, strict loading and saving, fetching from the hub."""
