"""Images, videos and text to tensors."""
