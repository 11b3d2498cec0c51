"""The video data engine: turns raw videos into clips with captions by a language model (section 2.2)."""
