"""Runs: functions that return a complete, typed config."""
