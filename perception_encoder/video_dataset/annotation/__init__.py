"""Annotation of captions by people: the database of their work, and the local page."""
