"""A local web server: its limits, its key, requests, answers, and the app of a page."""
