"""A small model with random weights, images that differ, and a client of the embedding server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.fetch import FetchLimits
from perception_encoder.serving.api import create_app
from perception_encoder.serving.requests import ApiConfig
from tests.inference.conftest import checkpoint, draw, encoder
from tests.inference.conftest import image_files as pictures
from tests.serving.servers import served

__all__ = ["checkpoint", "draw", "encoder", "pictures"]


@pytest.fixture
def client(encoder: Encoder) -> Iterator[TestClient]:
    """A client of a server with small limits."""
    config = ApiConfig(inputs=8, files=2, body_bytes=1 << 20)
    with TestClient(create_app(encoder, config), base_url="http://localhost") as client:
        yield client


@pytest.fixture
def address(encoder: Encoder) -> Iterator[str]:
    """The address of a server with a key, in a thread."""
    config = ApiConfig(key="secret", body_seconds=1.0, fetch=FetchLimits(seconds=1.0))
    with served(create_app(encoder, config)) as address:
        yield address
