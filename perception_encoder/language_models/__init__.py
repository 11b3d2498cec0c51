"""Language models that read images and videos: an encoder, a projector and a decoder (section 4); or an endpoint."""
