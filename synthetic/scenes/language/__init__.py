"""The scene graph of an image, and the captions and questions made from it."""
