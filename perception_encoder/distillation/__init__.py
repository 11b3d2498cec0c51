"""Distillation of a two-tower model into a smaller one (section 2.4)."""
