"""Images and videos of requests: data URIs, and addresses, which are fetched within limits; see test_api_limits too."""

from __future__ import annotations

import asyncio
import time

import pytest
from PIL import Image

from perception_encoder.errors import InputError, MediaDecodeError, UrlRefusedError
from perception_encoder.inference.fetch import FetchLimits
from perception_encoder.inference.media import open_media
from perception_encoder.serving.reading import MediaReader, read_data_uri
from tests.serving.servers import data_uri


def test_a_data_uri_is_its_image() -> None:
    image = Image.new("RGB", (5, 4), "red")
    opened = open_media(read_data_uri("image", data_uri(image)))
    assert opened.size == (5, 4) and opened.getpixel((2, 2)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("data:image/png,abc", "data:image/png,…: is not a base64 data URI"),
        ("data:;base64", "is not a base64 data URI"),
        ("data:;base64,%%%", "is not valid base64"),
    ],
)
def test_a_bad_data_uri_is_an_error_that_does_not_quote_its_data(uri: str, error: str) -> None:
    with pytest.raises(InputError, match=error) as caught:
        read_data_uri("image", uri)
    assert "%%%" not in str(caught.value)


def test_a_video_is_not_an_image() -> None:
    with pytest.raises((InputError, MediaDecodeError)):
        open_media(read_data_uri("image", "data:video/mp4;base64,AAAAIGZ0eXBpc29t"))


def test_an_address_is_never_a_path_and_a_private_one_is_not_fetched() -> None:
    async def read(value: str) -> object:
        return await MediaReader(FetchLimits()).read("image", value, time.monotonic() + 5, lambda media: media)

    with pytest.raises(UrlRefusedError, match="not a public address"):
        asyncio.run(read("http://127.0.0.1:9/a.png"))
    for value in ("/etc/passwd", "file:///etc/passwd", "a.png"):
        with pytest.raises(InputError, match=r"neither an http\(s\) address nor a data URI"):
            asyncio.run(read(value))
