"""Words in images: read, and looked up in a table."""
