"""Vectors of labelled pictures, each picture decoded and encoded once.

A picture that cannot be decoded is left out and reported; no other one takes its place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from perception_encoder.data.labelled import LabelledPictures
from perception_encoder.data.progress import Track, untracked
from perception_encoder.errors import DataError, InputError, ModelError
from perception_encoder.evaluation.protocol import ImageEncoder
from perception_encoder.preprocess.image import open_image

CHUNK = 256  # pictures in memory at a time


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


def encode_pictures(encoder: ImageEncoder, pictures: LabelledPictures, track: Track = untracked) -> Features:
    """Encode a task's pictures.

    Raises `DataError` where none can be decoded, `ModelError` where a vector is not finite.
    """
    vectors: list[np.ndarray] = []
    decodable: list[int] = []
    failures: list[InputError] = []
    images: list[Image.Image] = []
    count = len(pictures.keys)
    decoded = enumerate(_decode_all(pictures))
    for row, picture in track(decoded, f"encoding {pictures.name}", count):
        if isinstance(picture, InputError):
            failures.append(picture)
        else:
            decodable.append(row)
            images.append(picture)
        if images and (len(images) == CHUNK or row == count - 1):
            vectors.append(encoder.encode_images(images))
            images = []
    if not vectors:
        raise DataError(f"{pictures.name}: no picture can be decoded; the first: {failures[0]}")
    return Features(
        vectors=check_finite(np.concatenate(vectors), encoder.name, pictures.name),
        keys=tuple(pictures.keys[row] for row in decodable),
        labels=tuple(pictures.labels[row] for row in decodable),
        failures=tuple(failures),
    )


def _decode_all(pictures: LabelledPictures) -> Iterator[Image.Image | InputError]:
    """Decode in order, `CHUNK` pictures ahead at most."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(pictures.keys), CHUNK):
            rows = slice(start, start + CHUNK)
            yield from pool.map(_decode, pictures.pictures[rows], pictures.keys[rows])


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


def _decode(picture: bytes, key: str) -> Image.Image | InputError:
    try:
        return open_image(picture, key)
    except InputError as error:
        return error
