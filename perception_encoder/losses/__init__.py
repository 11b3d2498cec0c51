"""Pure loss functions, one per file."""
