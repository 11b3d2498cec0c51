"""Readers of evaluation datasets, one published layout a module."""
