"""Models that see colours only, and small datasets for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.evaluation import embeddings
from perception_encoder.inference import load
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.model_spec import ModelSpec
from tests.evaluation.colours import ColourTowers, image_bytes
from tests.evaluation.layers import colour_layers as make_layers

COLOURS = ("red", "green", "blue")


class ColourBlind(ColourTowers):
    """Takes every image for red."""

    name = "blind"

    def images(self, pixels, layer, pool, role=None):
        return np.tile(np.float32([1, 0, 0]), (len(pixels), 1))


@pytest.fixture
def colour_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model sees colours, except "blind"."""

    def find(model):
        return Encoder(ColourBlind() if ModelSpec.of(model).name == "blind" else ColourTowers())

    monkeypatch.setattr(embeddings, "load", find)


@pytest.fixture
def colour_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model with layers sees colours."""
    features = make_layers(4, (24, 32))
    monkeypatch.setattr(load, "load_layers", lambda model, layer, final_norm=False: features.at(layer))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Directories train and val of three classes."""
    for split, count in (("train", 10), ("val", 4)):
        for colour in COLOURS:
            for number in range(count):
                path = tmp_path / "photos" / split / colour / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image_bytes(colour, number if split == "train" else 40 + number))
    return tmp_path / "photos"


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
