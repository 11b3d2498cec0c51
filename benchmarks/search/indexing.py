"""Images a second of `pe index` beside encoding alone, as `benchmarks.embed` measures `pe embed`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.embed import DECODE, ENCODE, take_turns, write_photographs
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load
from perception_encoder.inference.pipeline import map_in_order
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.models.registry import BUILTIN
from perception_encoder.preprocess.image import open_image
from perception_encoder.search.storage.update import update_store
from perception_encoder.search.storage.writer import IndexWriter

IMAGES = {BUILTIN: 768, "PE-Core-B16-224": 512}
BRIEF = 2
INDEX = "directory to index"


def contenders(encoder: Encoder, directory: Path, paths: Sequence[Path]) -> dict[str, Callable[[], object]]:
    """Calls to time, by label."""
    feature, workers, size = encoder.feature(), encoder.runtime.workers, encoder.batch_size
    groups = [paths[start : start + size] for start in range(0, len(paths), size)]

    def decode(group: Sequence[Path]) -> np.ndarray:
        return np.stack([encoder.transform.pixels(open_image(path)) for path in group])

    pixels = list(map(decode, groups))

    def index() -> None:
        with IndexWriter.for_writing(directory):
            settings = {**encoder.describe(feature), "source": encoder.source, "every": 1.0}
            update_store(IndexWriter.create(directory, settings), encoder)

    return {
        ENCODE: lambda: list(
            map_in_order(lambda batch: encoder.embed_pixels(batch, feature), pixels, workers, encoder.runtime)
        ),
        DECODE: lambda: list(map_in_order(decode, groups, workers, encoder.runtime)),
        INDEX: index,
    }


def measure(brief: bool) -> dict[str, Any]:
    """Images a second of each contender in each round."""
    rounds = BRIEF if brief else 4
    speeds: dict[str, dict[str, list[float]]] = {}
    for name, count in IMAGES.items():
        with tempfile.TemporaryDirectory() as directory:
            source = name if name == BUILTIN else Path(directory) / f"{name}.safetensors"
            if isinstance(source, Path):
                write_checkpoint(create_model(name), source)
            photographs = Path(directory) / "photographs"
            photographs.mkdir()
            paths = write_photographs(photographs, count)
            speeds[name] = take_turns(name, contenders(load(source), photographs, paths), len(paths), rounds)
    return {"speeds": speeds}
