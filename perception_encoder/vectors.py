"""Arrays of embeddings, and their files."""

from __future__ import annotations

from pathlib import Path
from tokenize import TokenError
from typing import Literal

import numpy as np


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (…, D) at length 1; zeros stay zeros."""
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return unit


def load_array(path: Path, mode: Literal["r", "r+"] | None = None) -> np.ndarray:
    """Load a .npy file, or with a `mode` map it; OSError or ValueError if that fails, whatever is damaged."""
    try:
        array: np.ndarray = np.load(path, mmap_mode=mode, allow_pickle=False)
    except (EOFError, TokenError, SyntaxError, MemoryError, OverflowError) as error:
        raise ValueError(str(error)) from None
    return array
