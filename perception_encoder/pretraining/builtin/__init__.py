"""The built-in model's recipe and its emoji drawings."""
