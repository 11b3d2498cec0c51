"""Turn the inputs of a request into embeddings: texts, data URIs, and addresses, which are fetched within limits."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Float

from perception_encoder.errors import InputError, MediaTooLargeError, PerceptionEncoderError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.fetch import FetchLimits, fetch, is_url
from perception_encoder.inference.media import Kind, Media, resolve
from perception_encoder.inference.pipeline import Decoded
from perception_encoder.preprocess.source import escape_name
from perception_encoder.serving.batching import Batcher, QueueFullError
from perception_encoder.serving.requests import ApiError, Input


async def embed_inputs(inputs: Sequence[Input], batcher: Batcher, limits: FetchLimits) -> Float[np.ndarray, "n D"]:
    """Embed a request's inputs; ApiError if one is bad, or if too many wait.

    A batch at a time, so that other requests' inputs come in between.
    """
    end, size = time.monotonic() + limits.seconds, batcher.largest
    vectors = []
    try:
        with batcher.reserve(len(inputs)):
            for start in range(0, len(inputs), size):
                part = inputs[start : start + size]
                left = max(0.0, end - time.monotonic()) if any(_is_address(*each) for each in part) else None
                async with asyncio.timeout(left):
                    decoded = await asyncio.gather(*(_decode(*each, batcher, limits, end) for each in part))
                vectors.append(await batcher.encode(decoded))
    except TimeoutError:
        raise ApiError(413, f"the addresses took more than {limits.seconds:g} s in all, the limit", "input") from None
    except QueueFullError as error:
        raise ApiError(429, f"{error}; try again later") from None
    except InputError as error:
        raise ApiError(413 if isinstance(error, MediaTooLargeError) else 400, str(error), "input") from None
    except PerceptionEncoderError as error:
        raise ApiError(500, str(error)) from None
    return np.concatenate(vectors)


async def _decode(kind: Kind, value: str, batcher: Batcher, limits: FetchLimits, end: float) -> Decoded:
    """Return a text as it is, or the pixels of an image or video; raises InputError."""
    if kind == "text":
        return Decoded(text=value)
    if not _is_address(kind, value):
        return await batcher.decode(partial(read_data_uri, kind, value))
    # bytes: never a path, whatever the address looks like
    return await batcher.fetch(
        lambda: fetch(value, replace(limits, seconds=max(0.0, end - time.monotonic()))),
        lambda content: resolve(content, escape_name(value), kind=kind),
    )


def _is_address(kind: Kind, value: str) -> bool:
    """Whether an input has to be fetched; InputError if an image or video is neither an address nor a data URI."""
    if kind == "text" or value.startswith("data:"):
        return False
    if not is_url(value) or not value.startswith(("http://", "https://")):
        raise InputError(value[:60], "is neither an http(s) address nor a data URI")
    return True


def read_data_uri(kind: Kind, value: str) -> Media:
    """Return the image or video in a data URI; raises InputError."""
    head, comma, data = value.partition(",")
    name = f"{head[:60]},…"
    if not comma or not head.endswith(";base64"):
        raise InputError(name, "is not a base64 data URI")
    try:
        return resolve(base64.b64decode(data, validate=True), name, kind=kind)
    except binascii.Error:
        raise InputError(name, "is not valid base64") from None


def count_tokens(encoder: Encoder, inputs: Sequence[Input]) -> int:
    """Count the text tokens of a request, and the patches of its images and videos, for its `usage`."""
    texts = [value for kind, value in inputs if kind == "text"]
    patches = sum(encoder.visual.config.grid**2 * (8 if kind == "video" else 1) for kind, _ in inputs if kind != "text")
    if not texts or encoder.tokenizer is None:
        return patches
    return patches + int((encoder.tokenizer(texts).argmax(dim=1) + 1).sum())
