"""Things to vectors: inputs, the encoder, the embedding pipeline."""
