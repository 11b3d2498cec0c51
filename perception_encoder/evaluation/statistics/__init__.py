"""Intervals, paired differences and per-item scores."""
