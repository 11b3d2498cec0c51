"""Depth, segmentation, detection and tracking."""
