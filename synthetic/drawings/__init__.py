"""Emoji and clip art as labelled images: most of what the built-in model is trained on beside photographs."""
