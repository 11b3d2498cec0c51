"""Language alignment (section 4): an encoder, a projector and a language model that answers questions about images."""
