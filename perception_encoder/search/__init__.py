"""Exact search over vectors and the pages that show it."""
