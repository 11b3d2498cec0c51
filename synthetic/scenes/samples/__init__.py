"""Images and videos with their annotations, and the shards that hold them."""
