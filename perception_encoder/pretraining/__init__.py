"""Robust image pretraining (section 2.1)."""
