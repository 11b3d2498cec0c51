"""Queries, and one search over indexes and plain files."""
