"""The encoder family: configurations, towers, names, weights."""
