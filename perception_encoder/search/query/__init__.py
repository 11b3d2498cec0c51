"""Queries, hits and how certain they are."""
