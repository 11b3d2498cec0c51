"""See where a video's shots change: the colours all over the image differ from those of the frame before."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from PIL import Image

SHOT_CHANGE = 0.6
"""Share of the image whose colours must change for a cut, in 0–1."""
_BINS = 4  # of each colour channel
_CELLS = 4  # of each side of the image: colours are counted in each cell
_SIDE = 32  # pixels of the histogram's image


def colour_histogram(image: Image.Image) -> Float[np.ndarray, " C"]:
    """Count an image's colours in each cell; each cell's shares sum to 1 / cells."""
    pixels = np.asarray(image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX))  # (32, 32, 3)
    colour = (pixels // (256 // _BINS)) @ np.array([_BINS * _BINS, _BINS, 1])  # (32, 32)
    cell = np.arange(_SIDE) * _CELLS // _SIDE
    index = (cell[:, None] * _CELLS + cell[None]) * _BINS**3 + colour
    return np.bincount(index.ravel(), minlength=_CELLS**2 * _BINS**3).astype(np.float32) / _SIDE**2


def colour_change(before: Float[np.ndarray, " C"], after: Float[np.ndarray, " C"]) -> float:
    """Return the share of the image whose colours differ between two histograms, in 0–1."""
    return float(np.abs(before - after).sum() / 2)
