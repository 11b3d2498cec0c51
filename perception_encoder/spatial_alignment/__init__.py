"""Spatial alignment (section 5): the last layer learns to follow the edges of objects without forgetting."""
