"""The page and the model card of the built-in model."""
