"""Training pairs: where they come from, how they are captioned and batched."""
