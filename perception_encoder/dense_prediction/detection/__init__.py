"""Detectors over the map of one layer: Mask R-CNN and a deformable DETR."""
