"""Models that see colours only, and small datasets for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.evaluation import embeddings, layer_evaluator
from perception_encoder.inference.model_spec import ModelSpec
from tests.evaluation.colours import ColourEncoder, image_bytes
from tests.evaluation.layers import ColourLayers

COLOURS = ("red", "green", "blue")


class ColourBlind(ColourEncoder):
    """Takes every image for red."""

    name = "blind"

    def encode_images(self, images, normalize=True, **options):
        return np.tile(np.float32([1, 0, 0]), (len(images), 1))


@pytest.fixture
def colour_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model sees colours, except "blind"."""
    models = {"blind": ColourBlind}
    monkeypatch.setattr(embeddings, "load", lambda model: models.get(ModelSpec.of(model).name, ColourEncoder)())


@pytest.fixture
def colour_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model with layers sees colours."""
    features = ColourLayers(4, (24, 32))
    monkeypatch.setattr(layer_evaluator, "load_layers", lambda model, layer, final_norm=False: features.at(layer))


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
