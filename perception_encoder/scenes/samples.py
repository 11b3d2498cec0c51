"""Samples of a set of scenes: what pictures and videos share, and pictures with depth, mask, graph and questions.

A sample depends on the seed, its split and its number alone. A scene that shows too little of one of its things is
drawn anew, with the next state of the sample's own generator.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from PIL import Image

from perception_encoder.errors import DataError
from perception_encoder.formats.shards import json_bytes
from perception_encoder.scenes.graph import Graph, describe
from perception_encoder.scenes.language import captions
from perception_encoder.scenes.layout import LayoutConfig, Layouts
from perception_encoder.scenes.models import SPLITS, Library
from perception_encoder.scenes.questions import Question, ask
from perception_encoder.scenes.renderer import Renderer

SOURCE = "scenes"
TRIES = 60
JPEG_QUALITY = 92
MOST_MILLIMETRES = 65535


@dataclass(frozen=True)
class Sample:
    """The files of a sample, and what the set's common files say of it."""

    key: str
    files: tuple[tuple[str, bytes], ...]
    """Extension and content."""
    metadata: dict[str, Any]
    annotations: tuple[dict[str, Any], ...] = ()
    """COCO's, one a thing, with `category` in place of numbers."""


class Maker(ABC):
    """Makes the samples of a split, by number; `with` closes its renderer."""

    what: ClassVar[str]
    """`picture` or `video`."""

    def __init__(self, library: Library, split: str, side: int, seed: int, config: LayoutConfig) -> None:
        self.layouts = Layouts(library, library.select(split), config)
        self.renderer = Renderer(library)
        self.library, self.split, self.side, self.seed = library, split, side, seed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.renderer.__exit__()

    def sample(self, number: int) -> Sample:
        """The sample of this number; DataError where no scene can be made."""
        generator = np.random.default_rng([self.seed, SPLITS.index(self.split), number, self.what == "video"])
        for _ in range(TRIES):
            made = self.attempt(number, generator)
            if made is not None:
                return made
        raise DataError(f"{self.split} {self.what} {number}: no scene came out as it should in {TRIES} tries")

    @abstractmethod
    def attempt(self, number: int, generator: np.random.Generator) -> Sample | None:
        """Make a sample; None where a thing is hidden or something happened that was not planned."""

    def common(self, graph: Graph, said: Sequence[str], asked: Sequence[Question]) -> dict[str, Any]:
        """What the JSON of pictures and of videos has."""
        abouts = [self.library.about[key] for key in dict.fromkeys(node.model for node in graph.nodes)]
        return {
            "source": SOURCE,
            "label": said[0],
            "caption": list(said),
            "split": self.split,
            "width": self.side,
            "height": self.side,
            **graph.to_json(),
            "questions": [dict(vars(question)) for question in asked],
            "attribution": [f"{a.key}: {a.label} by {a.creator or a.source}, {a.licence}" for a in abouts],
        }


class Pictures(Maker):
    """Makes the pictures of a split."""

    what = "picture"

    def __init__(self, library: Library, split: str, side: int, seed: int) -> None:
        super().__init__(library, split, side, seed, LayoutConfig())
        self.kinds = sorted(self.layouts.kinds)

    def attempt(self, number: int, generator: np.random.Generator) -> Sample | None:
        """Make a picture; None where a thing is hidden."""
        scene = self.layouts.invent(generator)
        with self.renderer.stage(scene) as stage:
            view = stage.look(scene.camera, self.side)
            graph = describe(scene, view.mask, self.library)
            if graph is None:
                return None
            picture = stage.light(view)
        said, asked = captions(graph, generator), ask(graph, self.kinds, generator)
        metadata = {**self.common(graph, said, asked), "camera": scene.camera.to_json(self.side)}
        files = (
            ("jpg", encode_image(picture.rgb, "JPEG")),
            ("depth.png", encode_image(millimetres(picture.depth), "PNG")),
            ("mask.png", encode_image(picture.mask, "PNG")),
            ("json", json_bytes(metadata)),
        )
        return Sample(f"{self.split}-{number:07}", files, metadata, tuple(annotate(graph, picture.mask)))


def millimetres(depth: np.ndarray) -> np.ndarray:
    """Depth in metres as uint16 millimetres; 0 is nothing there, or farther than 65.5 m."""
    rounded = np.round(depth * 1000)
    return np.where(rounded <= MOST_MILLIMETRES, rounded, 0).astype(np.uint16)


def encode_image(pixels: np.ndarray, kind: Literal["JPEG", "PNG"]) -> bytes:
    """(H, W, 3) uint8, or (H, W) uint8 or uint16, as the content of a file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, quality=JPEG_QUALITY, compress_level=3)
    return stream.getvalue()


def annotate(graph: Graph, mask: np.ndarray) -> list[dict[str, Any]]:
    """COCO's annotations of a picture's things: box, area, and the mask in run lengths."""
    return [
        {
            "category": node.kind,
            "bbox": [*node.box[:2], node.box[2] - node.box[0], node.box[3] - node.box[1]],
            "area": node.pixels,
            "iscrowd": 0,
            "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask == node.id)},
        }
        for node in graph.nodes
    ]


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's run lengths of a bool mask (H, W): down the columns, of 0 and of 1 by turns, beginning with 0."""
    flat = mask.T.ravel()
    ends = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    lengths = [int(length) for length in np.diff(ends)]
    return [0, *lengths] if flat[0] else lengths
