"""Objects followed through videos by similarity of patches, without training (section 3)."""
