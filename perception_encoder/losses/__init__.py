"""Pure loss functions, one a file."""
