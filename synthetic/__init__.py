"""Rendered and drawn training data with exact answers, and what made the built-in models; not part of the wheel."""
