"""The small model with random weights that the tests of encoding use."""

from __future__ import annotations

from tests.inference.conftest import draw, encoder, pictures

__all__ = ["draw", "encoder", "pictures"]
