"""A small model with random weights, images that differ, and a folder of them with an index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from perception_encoder.search.storage.update import UpdateReport
from tests.clips import clip
from tests.inference.conftest import checkpoint, draw, encoder
from tests.inference.conftest import image_files as pictures
from tests.search.indexes import update_folder

__all__ = ["checkpoint", "draw", "encoder", "pictures"]


@pytest.fixture
def folder(pictures: list[Path]) -> Path:
    """Twenty images, a clip and a bad file."""
    (pictures[0].parent / "clip.mp4").write_bytes(clip(60))
    (pictures[0].parent / "bad.jpg").write_bytes(b"no image")
    return pictures[0].parent


@pytest.fixture
def update(checkpoint: Path, folder: Path) -> Callable[..., UpdateReport]:
    """Bring the folder's index up to date."""
    return lambda **options: update_folder(folder, checkpoint, **options)


@pytest.fixture
def photos(pictures: list[Path]) -> Path:
    """A folder of images, some of them in a subfolder with a quote in its name."""
    folder = pictures[0].parent
    below = folder / "2024's" / "may"
    below.mkdir(parents=True)
    for path in pictures[12:]:
        path.rename(below / path.name)
    return folder
