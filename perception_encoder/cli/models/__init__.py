"""`pe models` and the commands that read one model: features, convert, export."""
