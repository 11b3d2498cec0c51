"""Evaluate depth, segmentation, detection and tracking."""
