"""Features of 30 videos that no video was needed for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.video_dataset.features import MOTION


def write_features(directory: Path, count: int = 30, width: int = 8) -> Path:
    """Write a table of features whose first motion feature decides the score."""
    rng = np.random.default_rng(0)
    motion = rng.normal(size=(count, len(MOTION)))
    frames = rng.normal(size=(count, 3, width)).astype(np.float32)
    columns = {"key": [f"train/v{n}" for n in range(count)], "frames": frames.tolist()}
    columns |= {name: motion[:, n].tolist() for n, name in enumerate(MOTION)}
    directory.mkdir(parents=True)
    pq.write_table(pa.table(columns), directory / "train-000000.parquet")
    scores = np.clip(2.5 + motion[:, 0], 0, 5)
    lines = [f"train/v{n},{score:.3f}" for n, score in enumerate(scores)]
    (directory.parent / "hand.csv").write_text("\n".join(["key,score", *lines]) + "\n")
    return directory
