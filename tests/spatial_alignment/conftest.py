"""Images with two objects each, and their masks, in a tar as rendered scenes are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.formats.shards import write_members
from tests.evaluation.layers import png


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of 64 px with two rectangles, and which one each pixel shows."""
    generator = np.random.default_rng(number)
    pixels, mask = np.full((64, 64, 3), 120, np.uint8), np.zeros((64, 64), np.uint8)
    for identity in (1, 2):
        top, left = generator.integers(0, 40, size=2)
        rows, columns = slice(top, top + 24), slice(left, left + 24)
        pixels[rows, columns] = generator.integers(0, 255, size=3)
        mask[rows, columns] = identity
    return pixels, mask


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of one tar with 24 scenes."""
    directory = tmp_path_factory.mktemp("scenes")
    members = []
    for number in range(24):
        pixels, mask = scene(number)
        members += [
            (f"{number:02d}.png", png(pixels)),
            (f"{number:02d}.mask.png", png(mask)),
            (f"{number:02d}.json", json.dumps({"objects": []}).encode()),
        ]
    write_members(directory / "train" / "00000.tar", members)
    return directory
