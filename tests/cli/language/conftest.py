"""A run of a tiny language model on disk, an image, a video and a PDF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.language_alignment.weights import WEIGHTS, build_language_model, write_language_model
from tests.clips import clip
from tests.language_alignment.test_weights import parts
from tests.pdfs import pdf


@pytest.fixture(scope="session")
def language_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as `pe train` writes it."""
    run = tmp_path_factory.mktemp("tiny")
    model_parts = parts(run)
    model, _ = build_language_model(model_parts, torch.Generator().manual_seed(0))
    write_language_model(run / WEIGHTS, model_parts, model, vision=False, decoder=False)
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
