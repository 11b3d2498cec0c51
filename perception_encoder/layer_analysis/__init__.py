"""Layerwise analysis: which layer serves which task, and why (section 3)."""
