"""Thumbnails of images of any mode."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from perception_encoder.preprocess.image import encode_thumbnail


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "CMYK"])
def test_thumbnails_of_any_mode(mode: str) -> None:
    original = Image.new(mode, (1000, 500), 120)
    thumbnail = Image.open(io.BytesIO(encode_thumbnail(original, 400)))
    assert thumbnail.size == (400, 200) and thumbnail.format == "JPEG"
    assert original.size == (1000, 500)


def test_transparent_parts_become_white() -> None:
    content = encode_thumbnail(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), 400)
    assert Image.open(io.BytesIO(content)).getpixel((4, 4)) == (255, 255, 255)
