"""Inputs of a request: data URIs, and the tokens that are counted. Addresses: see test_api_limits."""

from __future__ import annotations

import pytest
from PIL import Image

from perception_encoder.errors import InputError, MediaDecodeError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.media import open_media
from perception_encoder.serving.inputs import count_tokens, read_data_uri
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


def test_texts_count_their_tokens_and_media_their_patches(encoder: Encoder) -> None:
    texts = ["a red mug", "a cat"]
    tokens = sum(int(ids.argmax()) + 1 for ids in encoder.tokenizer(texts))
    patches = encoder.visual.config.grid**2
    assert count_tokens(encoder, [("text", text) for text in texts]) == tokens > 6
    assert count_tokens(encoder, [("text", texts[0]), ("text", texts[1]), ("image", ""), ("video", "")]) == (
        tokens + 9 * patches
    )
