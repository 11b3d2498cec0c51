"""Turn the inputs of a request into embeddings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from perception_encoder.errors import InputError, PerceptionEncoderError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.media import Kind
from perception_encoder.inference.pipeline import Decoded
from perception_encoder.serving.batching import Batcher, QueueFullError
from perception_encoder.serving.parsing import ApiError
from perception_encoder.serving.reading import MediaReader, gather_results, input_refused, is_address, too_slow
from perception_encoder.serving.requests import Input


async def embed_inputs(inputs: Sequence[Input], batcher: Batcher, reader: MediaReader) -> Float[np.ndarray, "n D"]:
    """Embed a request's inputs; ApiError if one is bad, or if too many wait.

    A batch at a time, so that other requests' inputs come in between.
    """
    end, size = time.monotonic() + reader.limits.seconds, batcher.largest
    vectors = []
    try:
        with batcher.reserve(len(inputs)):
            for start in range(0, len(inputs), size):
                part = inputs[start : start + size]
                left = max(0.0, end - time.monotonic()) if any(is_address(*each) for each in part) else None
                async with asyncio.timeout(left):
                    decoded = await gather_results([_decode(*each, batcher, reader, end) for each in part])
                vectors.append(await batcher.encode(decoded))
    except TimeoutError:
        raise too_slow(reader.limits, "input") from None
    except QueueFullError as error:
        raise ApiError(429, f"{error}; try again later") from None
    except InputError as error:
        raise input_refused(error, "input") from None
    except PerceptionEncoderError as error:
        raise ApiError(500, str(error)) from None
    return np.concatenate(vectors)


async def _decode(kind: Kind, value: str, batcher: Batcher, reader: MediaReader, end: float) -> Decoded:
    """Return a text as it is, or the pixels of an image or video; raises InputError."""
    if kind == "text":
        return Decoded(text=value)
    return await reader.read(kind, value, end, batcher.decode)


def count_tokens(encoder: Encoder, inputs: Sequence[Input]) -> int:
    """Count the text tokens of a request, and the patches of its images and videos, for its `usage`."""
    texts = [value for kind, value in inputs if kind == "text"]
    patches = sum(encoder.visual.config.grid**2 * (8 if kind == "video" else 1) for kind, _ in inputs if kind != "text")
    if not texts or encoder.tokenizer is None:
        return patches
    return patches + int((encoder.tokenizer(texts).argmax(dim=1) + 1).sum())
