"""Layers of a transformer: attention, rotary positions, pooling, blocks."""
