"""People refine the captions of a model: the store of their work, and the local page."""
