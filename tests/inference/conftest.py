"""A small model with random weights, and images that differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """A two-tower model in float32, so that results can be compared closely."""
    return Encoder.of(create_model("PE-Core-N16-128"), "cpu", torch.float32)


@pytest.fixture(scope="session")
def checkpoint(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a file."""
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    write_checkpoint(encoder.model, path)
    return path


@pytest.fixture(scope="session")
def draw() -> Callable[[int], Image.Image]:
    """`draw(number)`: an image of coarse noise, unlike any other number's."""

    def draw(number: int) -> Image.Image:
        pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        return Image.fromarray(pixels).resize((80, 60), Image.Resampling.NEAREST)

    return draw


@pytest.fixture
def image_files(tmp_path: Path, draw: Callable[[int], Image.Image]) -> list[Path]:
    """Twenty JPEGs in a folder."""
    directory = tmp_path / "images"
    directory.mkdir()
    paths = [directory / f"{number:02d}.jpg" for number in range(20)]
    for number, path in enumerate(paths):
        draw(number).save(path, quality=90)
    return paths
