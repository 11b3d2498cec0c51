"""The layer analysis of section 3 in small."""
