"""Layerwise analysis: which layer is best for which task, and why (section 3)."""
