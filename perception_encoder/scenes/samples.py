"""One sample of a set of scenes: a picture with its depth, mask, graph, captions and questions.

A sample depends on the seed, its split and its number alone. A scene that shows too little of one of its things is
drawn anew, with the next state of the sample's own generator.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from perception_encoder.data.shards import to_json
from perception_encoder.errors import DataError
from perception_encoder.scenes.graph import Graph, describe
from perception_encoder.scenes.language import captions
from perception_encoder.scenes.layout import LayoutConfig, Layouts
from perception_encoder.scenes.models import SPLITS, Library, Split
from perception_encoder.scenes.questions import ask
from perception_encoder.scenes.renderer import Picture, Renderer
from perception_encoder.scenes.scene import Scene

SOURCE = "scenes"
TRIES = 40
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


class Pictures:
    """Makes the pictures of a split, by number; `with` closes its renderer."""

    def __init__(
        self, library: Library, split: Split, side: int, seed: int, config: LayoutConfig | None = None
    ) -> None:
        self.layouts = Layouts(library, library.select(split), config or LayoutConfig())
        self.renderer = Renderer(library)
        self.library, self.split, self.side, self.seed = library, split, side, seed
        self.kinds = sorted(self.layouts.kinds)

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, *_: object) -> None:
        self.renderer.__exit__()

    def sample(self, number: int) -> Sample:
        """The picture of this number; DataError where no scene can be made."""
        generator = np.random.default_rng([self.seed, SPLITS.index(self.split), number])
        for _ in range(TRIES):
            scene = self.layouts.invent(generator)
            with self.renderer.stage(scene) as stage:
                view = stage.look(scene.camera, self.side)
                graph = describe(scene, view.mask, self.library)
                if graph is not None:
                    return self._write(f"{self.split}-{number:07}", scene, stage.light(view), graph, generator)
        raise DataError(f"{self.split} picture {number}: no scene showed all of its things in {TRIES} tries")

    def _write(self, key: str, scene: Scene, picture: Picture, graph: Graph, generator: np.random.Generator) -> Sample:
        said = captions(graph, generator)
        metadata = {
            "source": SOURCE,
            "label": said[0],
            "caption": said,
            "split": self.split,
            "width": self.side,
            "height": self.side,
            **graph.to_json(),
            "camera": scene.camera.to_json(self.side),
            "questions": [question.to_json() for question in ask(graph, self.kinds, generator)],
            "attribution": attributions(self.library, [thing.model for thing in scene.things]),
        }
        files = (
            ("jpg", encode_jpeg(picture.rgb)),
            ("depth.png", encode_png(millimetres(picture.depth))),
            ("mask.png", encode_png(picture.mask)),
            ("json", to_json(metadata)),
        )
        return Sample(key, files, metadata, tuple(annotate(graph, picture.mask)))


def attributions(library: Library, models: Sequence[str]) -> list[str]:
    """A line for each model: what it is, who made it, and under which licence."""
    abouts = [library.about[key] for key in dict.fromkeys(models)]
    return [f"{about.key}: {about.label} by {about.creator or about.source}, {about.licence}" for about in abouts]


def millimetres(depth: np.ndarray) -> np.ndarray:
    """Depth in metres as uint16 millimetres; 0 is nothing there, or farther than 65.5 m."""
    rounded = np.round(depth * 1000)
    return np.where(rounded <= MOST_MILLIMETRES, rounded, 0).astype(np.uint16)


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as JPEG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()


def encode_png(values: np.ndarray) -> bytes:
    """(H, W) uint8 or uint16 as grey PNG."""
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG", compress_level=3)
    return stream.getvalue()


def annotate(graph: Graph, mask: np.ndarray) -> list[dict[str, Any]]:
    """COCO's annotations of a picture's things: box, area, and the mask in run lengths."""
    found = []
    for node in graph.nodes:
        left, top, right, bottom = node.box
        found.append(
            {
                "category": node.kind,
                "bbox": [left, top, right - left, bottom - top],
                "area": node.pixels,
                "iscrowd": 0,
                "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask == node.id)},
            }
        )
    return found


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's run lengths of a bool mask (H, W): down the columns, of 0 and of 1 by turns, beginning with 0."""
    flat = mask.T.ravel()
    ends = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    lengths = [int(length) for length in np.diff(ends)]
    return [0, *lengths] if flat[0] else lengths
