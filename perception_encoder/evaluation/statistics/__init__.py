"""Intervals, paired differences and scores."""
