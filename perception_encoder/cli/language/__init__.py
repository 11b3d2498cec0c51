"""Commands that answer in words: `pe ask` and `pe caption`."""
