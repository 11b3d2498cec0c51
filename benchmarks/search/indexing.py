"""Images a second of `pe index` beside encoding alone, as `benchmarks.embed` measures `pe embed`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.embed import DECODE, ENCODE, take_turns, write_photographs
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load
from perception_encoder.inference.pipeline import map_in_order
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.preprocess.image import open_image
from perception_encoder.search.storage.moments import MomentConfig
from perception_encoder.search.storage.store import Store
from perception_encoder.search.storage.update import update_store

IMAGES = {"builtin": 768, "PE-Core-B16-224": 128}
BRIEF = 2
INDEX = "directory to index"


def contenders(encoder: Encoder, directory: Path, paths: Sequence[Path]) -> dict[str, Callable[[], object]]:
    """Calls to time, by label."""
    feature, cores = encoder.feature(), torch.get_num_threads()
    size = encoder.batch_size
    groups = [paths[start : start + size] for start in range(0, len(paths), size)]

    def decode(group: Sequence[Path]) -> np.ndarray:
        return np.stack([encoder.transform.pixels(open_image(path)) for path in group])

    pixels = list(map(decode, groups))

    def index() -> None:
        with Store.for_writing(directory):
            settings = {**encoder.describe(feature), "source": "none", "moments": asdict(MomentConfig())}
            update_store(Store.create(directory, settings), encoder)

    return {
        ENCODE: lambda: list(
            map_in_order(lambda batch: encoder.embed_pixels(batch, feature), pixels, cores, encoder.runtime)
        ),
        DECODE: lambda: list(map_in_order(decode, groups, cores, encoder.runtime)),
        INDEX: index,
    }


def measure(brief: bool) -> dict[str, Any]:
    """Images a second of each contender in each round."""
    rounds = BRIEF if brief else 4
    speeds: dict[str, dict[str, list[float]]] = {}
    for name, count in IMAGES.items():
        encoder = load(name) if name == "builtin" else Encoder(create_model(name))
        with tempfile.TemporaryDirectory() as directory:
            paths = write_photographs(Path(directory), count)
            speeds[name] = take_turns(name, contenders(encoder, Path(directory), paths), len(paths), rounds)
    return {"speeds": speeds}
