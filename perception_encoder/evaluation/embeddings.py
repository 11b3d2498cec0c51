"""Embeddings of labelled images and videos, each decoded and encoded once.

A video's embedding is the mean of its frames' embeddings, made unit length (section 2.2). They are averaged with the
lengths that the model gives them, as in the reference's evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perception_encoder._version import __version__
from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.evaluation.inputs import FRAMES, decode_chunks, inputs_of
from perception_encoder.evaluation.results import Evaluator, Result, run_evaluators
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.preprocess.image import check_transform
from perception_encoder.progress import Track, untracked
from perception_encoder.runtime.machine import versions
from perception_encoder.vectors import unit_rows

CHUNK, TEXTS = 256, 4096  # images in memory, and texts encoded, at a time


@dataclass(frozen=True)
class Features:
    """Embeddings of the items that could be decoded."""

    vectors: np.ndarray  # (n, D) float32
    keys: tuple[str, ...]
    labels: tuple[str, ...]
    failures: tuple[InputError, ...] = ()
    rows: tuple[int, ...] = ()
    """Index of each item in the dataset, where two items may share a name."""

    def targets(self, classes: Sequence[str]) -> np.ndarray:
        return class_indices(self.labels, classes)


def class_indices(labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Return the index of each label in `classes`, (n,) int64."""
    index = {label: number for number, label in enumerate(classes)}
    return np.array([index[label] for label in labels], dtype=np.int64)


class Embeddings:
    """A model's embeddings of datasets and of texts, for evaluators: each is computed once and remembered."""

    def __init__(self, encoder: Encoder, texts: dict[tuple[str, ...], np.ndarray] | None = None) -> None:
        """`texts`: a cache to share with the same model under another transform."""
        self.encoder, self.name = encoder, encoder.name
        self._texts = {} if texts is None else texts
        self._images: dict[tuple[Any, ...], Features] = {}

    @property
    def failures(self) -> list[InputError]:
        return [failure for features in self._images.values() for failure in features.failures]

    @property
    def count(self) -> int:
        """Number of distinct items, including those that could not be decoded."""
        return sum(len(features.keys) + len(features.failures) for features in self._images.values())

    def texts(self, texts: Sequence[str], name: str = "texts", track: Track = untracked) -> np.ndarray:
        """Return unit embeddings (B, D) of texts; ModelError if one is not finite. `name`: for the progress bar."""
        known = tuple(texts)
        if known not in self._texts:
            starts = track(range(0, len(texts), TEXTS), f"encoding {name}", -(-len(texts) // TEXTS))
            parts = [self.encoder.encode_texts(texts[start : start + TEXTS]) for start in starts]
            self._texts[known] = np.concatenate(parts)
        return self._texts[known]

    def encode(self, images: Sequence[Image.Image], normalize: bool = True) -> np.ndarray:
        """Return embeddings (B, D) of images, computed each time."""
        return self.encoder.encode_images(images, normalize)

    def images(self, images: LabelledImages, track: Track = untracked, frames: int = FRAMES) -> Features:
        """Return unit embeddings of a dataset's images, and of its videos by `frames` uniform frames.

        Raises DataError if none can be decoded, ModelError if an embedding is not finite.
        """
        known = (images.keys, images.images, images.trim, frames)
        if known not in self._images:
            self._images[known] = self._encode(images, track, frames)
        features = self._images[known]
        return replace(features, labels=tuple(images.labels[row] for row in features.rows))

    def _encode(self, images: LabelledImages, track: Track, frames: int) -> Features:
        videos = any(not isinstance(source, bytes) for source in images.images)
        chunk = max(1, CHUNK // frames) if videos else CHUNK
        vectors: list[np.ndarray] = []
        failures: dict[int, InputError] = {}
        for _, items, failed in decode_chunks(inputs_of(images, frames), 0, chunk, track):
            failures |= dict(failed)
            if items:
                vectors.append(self._embed(items))
        if not vectors:
            raise DataError(f"{images.name}: no image can be decoded; the first: {next(iter(failures.values()))}")
        rows = [row for row in range(len(images.keys)) if row not in failures]
        decodable = images.select(rows)
        embedded = np.concatenate(vectors).astype(np.float32, copy=False)
        return Features(embedded, decodable.keys, decodable.labels, tuple(failures.values()), tuple(rows))

    def _embed(self, items: Sequence[Sequence[Image.Image]]) -> np.ndarray:
        """Return unit embeddings (B, D) of opened images or videos, their images or frames encoded together."""
        images = [image for item in items for image in item]
        if len(images) == len(items):
            return self.encode(images)
        frames = self.encode(images, normalize=False)
        starts = np.cumsum([0, *(len(item) for item in items[:-1])])
        return unit_rows(np.add.reduceat(frames, starts, axis=0))  # sums: as long as the means times a constant


def embeddings_of(encoders: Mapping[str, Encoder]) -> dict[str, Embeddings]:
    """Return the embeddings of a model under each of its transforms, by name, which share those of texts."""
    texts: dict[tuple[str, ...], np.ndarray] = {}
    return {transform: Embeddings(encoder, texts) for transform, encoder in encoders.items()}


def load_variants(
    model: str | Path | ModelSpec | Encoder,
    transforms: str | None = None,
    layer: int | None = None,
    pool: str | None = None,
    texts: bool = False,
) -> tuple[dict[str, Encoder], dict[str, str]]:
    """Load a model under some transforms, by name, with what its metrics depend on: weight hash, dtype, versions.

    Raises what `load` raises, and ConfigError for what the model does not have.

    Args:
        model: An encoder, or a name as `load` takes it.
        transforms: "squash", "crop" or both with a comma, which share the weights; by default both with `texts`, else
            "squash", and "crop" for a model with its own preprocessing.
        layer, pool: See `Encoder.feature`.
        texts: The evaluation needs a text tower.
    """
    names: Sequence[str] = [name.strip() for name in transforms.split(",")] if transforms is not None else []
    for name in names:
        check_transform(name)
    encoder = (model if isinstance(model, Encoder) else load(model)).decoding_as("exact")
    if texts and not encoder.reads_texts:
        raise ConfigError(f"{encoder.name} is a vision tower without a text tower; evaluate it by k-NN or a probe")
    names = names or (encoder.towers.modes if texts else encoder.towers.modes[:1])
    variants = {name: encoder.variant(transform=name, layer=layer, pool=pool) for name in names}
    about = next(iter(variants.values())).about
    return variants, {**about, "perception-encoder": __version__, "torch": versions()["torch"]}


def evaluate_encoder(
    evaluators: Iterable[Evaluator[Embeddings]],
    model: str | Path | ModelSpec | Encoder,
    split: str,
    track: Track = untracked,
    transforms: str | None = None,
    layer: int | None = None,
    pool: str | None = None,
    texts: bool = False,
) -> Result:
    """Run evaluators on a model under some transforms, each image encoded once for each: see `load_variants`."""
    variants, about = load_variants(model, transforms, layer, pool, texts)
    return run_evaluators(evaluators, embeddings_of(variants), split, about, track)
