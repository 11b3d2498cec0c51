"""`pe train`: the command, and what it prints of recipes and plans."""
