"""The HTTP embedding API."""
