"""Formats of files: tables, tars, shards, annotations, media directories, Lance."""
