"""The search page: its server, thumbnails and contact sheets."""
