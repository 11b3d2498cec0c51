"""Settings of a dataset of scenes, and the parts that images and videos share.

A sample depends on the seed, its split and its number alone. If an attempt fails, because too little of an object is
visible or an event did not happen, the next one goes on with the sample's own generator.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError, DataError
from synthetic.scenes.language.graph import SceneGraph
from synthetic.scenes.language.questions import SceneQuestion
from synthetic.scenes.layout.sampling import LayoutConfig, SceneSampler
from synthetic.scenes.objects.models import SPLITS, ObjectLibrary
from synthetic.scenes.rendering.motion import FRAME_RATE
from synthetic.scenes.rendering.renderer import SIDES, Renderer

TRIES = 60
JPEG_QUALITY = 92
MOST_MILLIMETRES = 65535


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """Settings of a dataset of scenes."""

    count: int = 1000
    """Number of images or videos."""
    split: str = "train"
    """Split of the models to use."""
    side: int = 128
    """Side of the images, in pixels; even."""
    seed: int = 0
    videos: bool = False
    """Make videos instead of images."""
    frames: int = 24
    """Frames of a video, FRAME_RATE a second."""
    shard: int = 1000
    """Samples of a tar."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ConfigError(f"split is {self.split!r}; it must be one of {', '.join(SPLITS)}")
        if not SIDES[0] <= self.side <= SIDES[1] or self.side % 2:
            raise ConfigError(f"side is {self.side}; it must be even and from {SIDES[0]} to {SIDES[1]} px")
        if min(self.count, self.shard) < 1 or self.seed < 0:
            raise ConfigError("count and shard must be at least 1, and seed at least 0")
        if self.frames < 2 * FRAME_RATE:
            raise ConfigError(f"frames is {self.frames}; it must be at least {2 * FRAME_RATE}, two seconds")


@dataclass(frozen=True)
class SceneSample:
    """The files of a sample, and its part of the files that describe the whole dataset."""

    key: str
    files: tuple[tuple[str, bytes], ...]
    """Extension and content."""
    metadata: dict[str, Any]
    annotations: tuple[dict[str, Any], ...] = ()
    """COCO's annotations, one an object, with `category` as a name."""


class SampleMaker(ABC):
    """Makes the samples of a dataset, by number; `with` closes its renderer."""

    media: ClassVar[Literal["image", "video"]]
    layout: ClassVar[LayoutConfig]

    def __init__(self, library: ObjectLibrary, config: ScenesConfig) -> None:
        self.library, self.config = library, config
        self.sampler = SceneSampler(library, library.select(config.split), self.layout)
        self.renderer = Renderer(library)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.renderer.__exit__()

    def sample(self, number: int) -> SceneSample:
        """Make the sample of this number; DataError if all attempts fail."""
        split = self.config.split
        generator = np.random.default_rng([self.config.seed, SPLITS.index(split), number, self.media == "video"])
        for _ in range(TRIES):
            sample = self.attempt(number, generator)
            if sample is not None:
                return sample
        raise DataError(f"{split} {self.media} {number}: no valid scene in {TRIES} tries; use a library of more models")

    @abstractmethod
    def attempt(self, number: int, generator: np.random.Generator) -> SceneSample | None:
        """Make a sample; None if too little of an object is visible, or an event did not happen as planned."""

    def common_metadata(
        self, graph: SceneGraph, captions: Sequence[str], questions: Sequence[SceneQuestion]
    ) -> dict[str, Any]:
        """Return the fields of the JSON that images and videos share."""
        infos = [self.library.info[key] for key in dict.fromkeys(node.model for node in graph.nodes)]
        return {
            "source": "scenes",
            "label": captions[0],
            "caption": list(captions),
            "split": self.config.split,
            "width": self.config.side,
            "height": self.config.side,
            **graph.to_json(),
            "questions": [dict(vars(question)) for question in questions],
            "attribution": [f"{i.key}: {i.label} by {i.creator or i.source}, {i.licence}" for i in infos],
        }


def encode_image(pixels: np.ndarray, file_format: Literal["JPEG", "PNG"]) -> bytes:
    """Return the file of an image: (H, W, 3) uint8, or (H, W) uint8 or uint16."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, file_format, quality=JPEG_QUALITY, compress_level=3)
    return stream.getvalue()


def millimetres(depth: np.ndarray) -> np.ndarray:
    """Turn depth in metres into uint16 millimetres; 0 is the sky, or farther than 65.5 m."""
    rounded = np.round(depth * 1000)
    return np.where(rounded <= MOST_MILLIMETRES, rounded, 0).astype(np.uint16)
