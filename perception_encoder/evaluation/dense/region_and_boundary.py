"""J and F of a mask, as DAVIS defines them: overlap of regions, and agreement of boundaries.

J is the intersection over the union. F is the harmonic mean of two shares: of the mask's boundary pixels that lie
within a distance of the true boundary, and of the true ones that lie within it of the mask's. The distance is 0.008 of
the image's diagonal, rounded up. A pixel is on the boundary if its right, lower or lower-right neighbour differs.
Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (2016), and the
conventions of its published evaluation (2017) for empty masks.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool

TOLERANCE = 0.008
"""Of the diagonal."""


def region_similarity(mask: Bool[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]) -> float:
    """Return J, in [0, 1]; 1 if both are empty."""
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 1.0


def boundary_accuracy(mask: Bool[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]) -> float:
    """Return F, in [0, 1]; 1 if both have no boundary, 0 if one has none."""
    own, true = boundary(mask), boundary(truth)
    if not own.any() or not true.any():
        return float(own.any() == true.any())
    radius = tolerance_pixels(mask.shape[0], mask.shape[1])
    precision = float(dilate(true, radius)[own].mean())
    recall = float(dilate(own, radius)[true].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def tolerance_pixels(height: int, width: int) -> int:
    """Return how far apart two boundaries may be, in pixels."""
    return math.ceil(TOLERANCE * math.hypot(height, width))


def boundary(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Return pixels whose right, lower or lower-right neighbour differs; the image's edge is none."""
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def dilate(mask: Bool[np.ndarray, "H W"], radius: int) -> Bool[np.ndarray, "H W"]:
    """Return pixels whose centre lies within `radius` of that of a pixel of the mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    grown = np.zeros_like(mask)
    if not len(rows):
        return grown
    height, width = mask.shape
    top, bottom = max(0, rows[0] - radius), min(height, rows[-1] + radius + 1)
    left, right = max(0, columns[0] - radius), min(width, columns[-1] + radius + 1)
    counts = np.zeros((bottom - top, right - left + 1), dtype=np.int32)
    mask[top:bottom, left:right].cumsum(axis=1, out=counts[:, 1:])
    columns = np.arange(right - left)
    window = grown[top:bottom, left:right]
    far = min(radius, bottom - top - 1)
    for down in range(-far, far + 1):
        half = math.isqrt(radius * radius - down * down)
        ends = np.minimum(columns + half + 1, right - left), np.maximum(columns - half, 0)
        wide = counts[:, ends[0]] > counts[:, ends[1]]
        to, of = slice(max(0, down), len(wide) + min(0, down)), slice(max(0, -down), len(wide) - max(0, down))
        window[to] |= wide[of]
    return grown
