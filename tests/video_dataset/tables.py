"""A table of features without videos."""

from __future__ import annotations

import numpy as np

from perception_encoder.video_dataset.features import FeatureTable


def table_of(embeddings: np.ndarray, values: np.ndarray | None = None) -> FeatureTable:
    """Videos train/0, train/1 and so on; `values` are two features by default unrelated to anything."""
    keys = tuple(f"train/{number}" for number in range(len(embeddings)))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    values = np.zeros((len(embeddings), 2)) if values is None else values
    return FeatureTable(keys, tuple(f"motion_{n}" for n in range(values.shape[1])), values, unit.astype(np.float32))
