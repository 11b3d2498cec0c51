"""Heads over frozen features: segmentation, depth, detection, and label propagation through videos."""
