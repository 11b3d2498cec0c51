"""Pictures, videos and text to tensors."""
