"""A library of twelve images and a clip, and a client of its page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.search_page.library import MediaLibrary
from perception_encoder.search_page.server import create_page
from tests.inference.conftest import checkpoint, draw, encoder
from tests.search.indexes import make_library

__all__ = ["checkpoint", "draw", "encoder"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the library."""
    return tmp_path / "photos"


@pytest.fixture
def library(folder: Path, checkpoint: Path, encoder: Encoder, draw: Callable[[int], Image.Image]) -> MediaLibrary:
    """See `make_library`."""
    return make_library(folder, checkpoint, encoder, draw)


@pytest.fixture
def client(library: MediaLibrary) -> Iterator[TestClient]:
    """A client of the library's page."""
    with TestClient(create_page(library), base_url="http://localhost") as client:
        yield client
