"""Dense tasks in small: what the built-in Spatial model's output gains over the built-in Core's layers."""
