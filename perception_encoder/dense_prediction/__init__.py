"""Heads over frozen features: what each patch is, how far, where it went, and which things there are."""
