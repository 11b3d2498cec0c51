"""The small model with random weights, as a file, and pictures that differ."""

from __future__ import annotations

from tests.inference.conftest import checkpoint, draw, encoder
from tests.inference.conftest import image_files as pictures

__all__ = ["checkpoint", "draw", "encoder", "pictures"]
