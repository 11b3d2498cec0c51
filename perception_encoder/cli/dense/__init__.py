"""Commands that say where objects are in images and videos: track, segment."""
