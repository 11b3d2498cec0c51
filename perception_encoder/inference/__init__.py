"""Images, videos and texts to embeddings: inputs, the encoder, the pipeline, output formats."""
