"""Words in images."""
