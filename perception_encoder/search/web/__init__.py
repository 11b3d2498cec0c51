"""The search page: its server, thumbnails and standalone pages."""
