"""Raw videos: listed, probed, with their metadata, cut into clips and sampled."""
