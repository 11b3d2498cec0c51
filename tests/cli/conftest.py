"""The small model with random weights, as a file, and pictures that differ."""

from __future__ import annotations

from tests.inference.conftest import checkpoint, draw, encoder, pictures

__all__ = ["checkpoint", "draw", "encoder", "pictures"]
