"""A run of a tiny language model on disk, an image, a video and a PDF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.language_models.weights import WEIGHTS
from tests.clips import clip
from tests.language_models.test_weights import write_file
from tests.pdfs import pdf


@pytest.fixture(scope="session")
def language_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as `pe train` writes it."""
    run = tmp_path_factory.mktemp("tiny")
    write_file(run / WEIGHTS)
    return run


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A directory of two images and a video, and a PDF of three pages."""
    directory = tmp_path / "media"
    directory.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 128 * (number + 1), (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(directory / f"{number}.png")
    (directory / "clip.mp4").write_bytes(clip(60))
    (directory / "report.pdf").write_bytes(pdf([(595, 842)] * 3))
    return directory
