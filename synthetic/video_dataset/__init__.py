"""Datasets of rendered videos in the layout of the PE Video Dataset."""
