"""The video data engine: clips of raw videos with captions that a language model made of what is seen (section 2.2)."""
