"""Training data: pairs, their captions, and batches."""
