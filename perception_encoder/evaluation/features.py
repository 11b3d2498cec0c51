"""Embeddings of labelled images and videos, each decoded and encoded once.

A video's embedding is the mean of its frames' embeddings, made unit length (section 2.2). They are averaged with the
lengths that the model gives them, as in the reference's evaluation. An item that cannot be decoded is left out and
reported; no other one takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.feature_cache import FeatureCache
from perception_encoder.evaluation.layer_features import (
    EMBEDDING,
    EmbeddingRows,
    EncoderInputs,
    content_digest,
    settings_digest,
)
from perception_encoder.formats.media_directory import Clip, MediaSource
from perception_encoder.formats.tars import TarMember
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.media import open_media, resolve
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.progress import Track, untracked

CHUNK = 256  # images in memory at a time
FRAMES = 8  # of a video


@dataclass(frozen=True)
class Features:
    """Embeddings of the items that could be decoded."""

    vectors: np.ndarray
    """(n, D) float32."""
    keys: tuple[str, ...]
    """Their names, in the same order."""
    labels: tuple[str, ...]
    failures: tuple[InputError, ...] = ()
    """The items that could not."""
    rows: tuple[int, ...] = ()
    """Where each is in the dataset, in which two items may have one name."""

    def targets(self, classes: Sequence[str]) -> np.ndarray:
        """Return the index of each label among `classes`, (n,) int64."""
        return class_indices(self.labels, classes)


def class_indices(labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Return the index of each label among `classes`, (n,) int64."""
    index = {label: number for number, label in enumerate(classes)}
    return np.array([index[label] for label in labels], dtype=np.int64)


class CachingEncoder(Encoder):
    """An encoder that caches the embeddings of datasets and of texts, for evaluators that share them."""

    def __init__(self, encoder: Encoder, texts: dict[tuple[str, ...], np.ndarray] | None = None) -> None:
        """`texts`: a cache to share with the same model under another transform."""
        self.encoder, self.name = encoder, encoder.name
        self._text_cache = {} if texts is None else texts
        self._image_cache: dict[tuple[Any, ...], Features] = {}

    @property
    def failures(self) -> list[InputError]:
        """The items that could not be decoded."""
        return [failure for features in self._image_cache.values() for failure in features.failures]

    @property
    def count(self) -> int:
        """The number of items, those that could not be decoded included; each counts once."""
        return sum(len(features.keys) + len(features.failures) for features in self._image_cache.values())

    def encode_images(self, images: Any, normalize: bool = True, **options: Any) -> np.ndarray:
        """Encode images, without a cache."""
        return self.encoder.encode_images(images, normalize, **options)

    def encode_texts(self, texts: Any, normalize: bool = True, **options: Any) -> np.ndarray:
        """Return embeddings (B, D) of texts, unit ones from the cache if the same were encoded before."""
        if not normalize or options:
            return self.encoder.encode_texts(texts, normalize, **options)
        if tuple(texts) not in self._text_cache:
            self._text_cache[tuple(texts)] = self.encoder.encode_texts(texts)
        return self._text_cache[tuple(texts)]

    def features(self, images: LabelledImages, track: Track, frames: int) -> Features:
        """Return the features of a dataset, from the cache if the same images were encoded for another task."""
        known = (images.keys, images.images, images.trim, frames)
        if known not in self._image_cache:
            self._image_cache[known] = _encode_dataset(self.encoder, images, track, frames)
        features = self._image_cache[known]
        return replace(features, labels=tuple(images.labels[row] for row in features.rows))


def cache_features(encoders: Mapping[str, Encoder]) -> dict[str, CachingEncoder]:
    """Wrap a model under each of its transforms, by name; the transforms share the embeddings of texts."""
    texts: dict[tuple[str, ...], np.ndarray] = {}
    return {transform: CachingEncoder(encoder, texts) for transform, encoder in encoders.items()}


def encode_images(encoder: Encoder, images: LabelledImages, track: Track = untracked, frames: int = FRAMES) -> Features:
    """Encode a dataset's images, and its videos by `frames` uniform frames, as unit embeddings.

    Raises `DataError` if none can be decoded, `ModelError` if an embedding is not finite.
    """
    cache = encoder if isinstance(encoder, CachingEncoder) else CachingEncoder(encoder)
    return cache.features(images, track, frames)


def _encode_dataset(encoder: Encoder, images: LabelledImages, track: Track, frames: int) -> Features:
    videos = any(not isinstance(source, bytes) for source in images.images)
    chunk = max(1, CHUNK // frames) if videos else CHUNK
    cached = FeatureCache(dtype="float32").encode(EmbeddingRows(encoder), inputs_of(images, frames), chunk, track)
    if not len(cached.rows):
        first = f"; the first: {cached.failures[0]}" if cached.failures else ": it is empty"
        raise DataError(f"{images.name}: no image can be decoded{first}")
    rows = cached.rows.tolist()
    decodable, vectors = images.select(rows), np.asarray(cached.arrays[EMBEDDING])
    return Features(vectors, decodable.keys, decodable.labels, cached.failures, tuple(rows))


def inputs_of(images: LabelledImages, frames: int = FRAMES) -> EncoderInputs:
    """Return a dataset's images, and its videos by `frames` uniform frames, to be encoded."""
    return EncoderInputs(
        name=images.name,
        keys=images.keys,
        open=media_opener(images, frames),
        compute_digest=lambda: settings_digest(content_digest(images.images), images.trim, frames),
    )


def media_opener(images: LabelledImages, frames: int = FRAMES) -> Callable[[int], list[Image.Image]]:
    """Return a function that opens an item of a dataset: an image, or the frames of a video; InputError if it fails."""
    return lambda row: open_item(images.images[row], images.keys[row], frames, images.trim)


def open_item(source: MediaSource, key: str, frames: int, trim: int = 0) -> list[Image.Image]:
    """Open an image, or `frames` frames of a video, `trim` pixels cut off each side; InputError if it fails."""
    if isinstance(source, Clip):
        media = resolve(source.path, key, start=source.start, end=source.end)
    else:
        media = resolve(source.read(key) if isinstance(source, TarMember) else source, key)
    opened = open_media(media, frames)
    assert not isinstance(opened, str)
    images = opened.images if isinstance(opened, VideoFrames) else [opened]
    return [cut_border(image, key, trim) for image in images]


def cut_border(image: Image.Image, key: str, trim: int) -> Image.Image:
    """Cut `trim` pixels off each side of an image; InputError if nothing would be left."""
    if not trim:
        return image
    if min(image.size) <= 2 * trim:
        raise InputError(key, f"is too small to have {trim} pixels cut off each side")
    return image.crop((trim, trim, image.width - trim, image.height - trim))
