"""Files other programs write: tables, tars, shards, media directories, Lance."""
