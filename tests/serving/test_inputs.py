"""Inputs of a request: the tokens that are counted. Addresses: see test_api_limits."""

from __future__ import annotations

import pytest

from perception_encoder.inference.encoder import Encoder
from perception_encoder.serving.api import count_tokens

pytestmark = pytest.mark.security


def test_texts_count_their_tokens_and_media_their_patches(encoder: Encoder) -> None:
    texts = ["a red mug", "a cat"]
    tokens = sum(int(ids.argmax()) + 1 for ids in encoder.tokenizer(texts))
    patches = encoder.visual.config.grid**2
    assert count_tokens(encoder, [("text", text) for text in texts]) == tokens > 6
    assert count_tokens(encoder, [("text", texts[0]), ("text", texts[1]), ("image", ""), ("video", "")]) == (
        tokens + 9 * patches
    )
