"""Masks as COCO's run lengths, uncompressed."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool


def run_lengths(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """Return the lengths of a mask's runs: down the columns, alternately of 0 and of 1, from 0."""
    flat = mask.T.ravel()
    ends = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    lengths = [int(length) for length in np.diff(ends)]
    return [0, *lengths] if flat[0] else lengths
