"""What training reads: pairs, their captions, batches."""
