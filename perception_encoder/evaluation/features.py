"""Vectors of labelled pictures and videos, each decoded and encoded once.

A video's vector is the mean of its frames' vectors, made unit length (section 2.2). They are averaged as the model
makes them, each of its own length, as in the reference's evaluation. An item that cannot be decoded is left out and
reported; no other one takes its place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from perception_encoder.datasets.labelled import LabelledPictures
from perception_encoder.errors import DataError, InputError, ModelError
from perception_encoder.formats.media_directory import Clip, Source
from perception_encoder.inference.media import open_media, resolve
from perception_encoder.models.protocols import ImageEncoder
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.progress import Track, untracked

CHUNK = 256  # pictures in memory at a time
FRAMES = 8  # of a video


@dataclass(frozen=True)
class Features:
    """Vectors of the pictures that could be decoded."""

    vectors: np.ndarray
    """(n, D) float32."""
    keys: tuple[str, ...]
    """Their names, in the same order."""
    labels: tuple[str, ...]
    failures: tuple[InputError, ...] = ()
    """The pictures that could not."""

    def targets(self, classes: Sequence[str]) -> np.ndarray:
        """Each label's place among `classes`, (n,) int64."""
        place = {label: index for index, label in enumerate(classes)}
        return np.array([place[label] for label in self.labels], dtype=np.int64)


def encode_pictures(
    encoder: ImageEncoder, pictures: LabelledPictures, track: Track = untracked, frames: int = FRAMES
) -> Features:
    """Encode a task's pictures, and its videos by `frames` uniform frames.

    Raises `DataError` where none can be decoded, `ModelError` where a vector is not finite.
    """
    vectors, decodable, failures = encode_sources(
        encoder, pictures.pictures, pictures.keys, pictures.name, track, frames, pictures.trim
    )
    return Features(
        vectors=vectors,
        keys=tuple(pictures.keys[row] for row in decodable),
        labels=tuple(pictures.labels[row] for row in decodable),
        failures=failures,
    )


def encode_sources(
    encoder: ImageEncoder,
    sources: Sequence[Source],
    keys: Sequence[str],
    name: str,
    track: Track = untracked,
    frames: int = FRAMES,
    trim: int = 0,
) -> tuple[np.ndarray, list[int], tuple[InputError, ...]]:
    """Unit vectors (n, D) of what can be decoded, the rows of `sources` that they are of, and what cannot be.

    Errors as those of `encode_pictures`.
    """
    vectors: list[np.ndarray] = []
    decodable: list[int] = []
    failures: list[InputError] = []
    waiting: list[list[Image.Image]] = []
    count = len(keys)
    decoded = enumerate(decode_sources(sources, keys, frames, trim))
    for row, shown in track(decoded, f"encoding {name}", count):
        if isinstance(shown, InputError):
            failures.append(shown)
        else:
            decodable.append(row)
            waiting.append(shown)
        if waiting and (sum(map(len, waiting)) >= CHUNK or row == count - 1):
            vectors.append(_encode(encoder, waiting, name))
            waiting = []
    if not vectors:
        first = f"; the first: {failures[0]}" if failures else ", for there is none"
        raise DataError(f"{name}: no picture can be decoded{first}")
    return np.concatenate(vectors), decodable, tuple(failures)


def _encode(encoder: ImageEncoder, shown: Sequence[Sequence[Image.Image]], name: str) -> np.ndarray:
    """Unit vectors of items (n, D) out of their pictures, all encoded together."""
    pictures = [image for images in shown for image in images]
    if len(pictures) == len(shown):
        return check_finite(encoder.encode_images(pictures), encoder.name, name)
    flat = check_finite(encoder.encode_images(pictures, normalize=False), encoder.name, name)
    starts = np.cumsum([0, *(len(images) for images in shown[:-1])])
    sums = np.add.reduceat(flat, starts, axis=0)  # as long as the means times a constant, which does not matter
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)


def decode_sources(
    sources: Sequence[Source], keys: Sequence[str], frames: int = FRAMES, trim: int = 0
) -> Iterator[list[Image.Image] | InputError]:
    """What each source shows, in order: a picture, the frames of a video, or why it cannot be decoded."""

    def decode(source: Source, key: str) -> list[Image.Image] | InputError:
        try:
            return _decode(source, key, frames, trim)
        except InputError as error:
            return error

    ahead = max(1, CHUNK // frames) if any(not isinstance(source, bytes) for source in sources) else CHUNK
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(keys), ahead):
            rows = slice(start, start + ahead)
            yield from pool.map(decode, sources[rows], keys[rows])


def _decode(source: Source, key: str, frames: int, trim: int) -> list[Image.Image]:
    if isinstance(source, Clip):
        media = resolve(source.path, key, start=source.start, end=source.end)
    else:
        media = resolve(source, key)
    opened = open_media(media, frames)
    assert not isinstance(opened, str)
    images = opened.images if isinstance(opened, VideoFrames) else [opened]
    if trim and min(min(image.size) for image in images) <= 2 * trim:
        raise InputError(key, f"is too small to have {trim} pixels cut off each side")
    return [image.crop((trim, trim, image.width - trim, image.height - trim)) for image in images] if trim else images


def relabel(features: Features, pictures: LabelledPictures) -> Features:
    """The same vectors with another task's labels for the same pictures."""
    labels = dict(zip(pictures.keys, pictures.labels, strict=True))
    return replace(features, labels=tuple(labels[key] for key in features.keys))


def check_finite(vectors: np.ndarray, model: str, inputs: str) -> np.ndarray:
    """Return the vectors (n, D) as they are; `ModelError` where one holds NaN or infinity."""
    bad = int((~np.isfinite(vectors)).any(axis=1).sum())
    if bad:
        raise ModelError(f"{model} gives NaN or infinity in {bad} of {len(vectors)} vectors of {inputs}; try float32")
    return vectors
