"""Results of heads and tracking for an image or a frame: depth, regions or objects, ready to draw and to store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from perception_encoder.dense_prediction.detection.detections import Detected
from perception_encoder.dense_prediction.drawing import depth_colours, draw_detections, draw_objects


@dataclass(frozen=True, kw_only=True)
class Region:
    """A numbered region of an image: a tracked object, a class, or the area that resembles a point."""

    id: int
    bbox: tuple[int, int, int, int]
    """Left, top, width and height in pixels, as in COCO."""
    area: int
    """In pixels."""
    name: str = ""


def list_regions(labels: Int[np.ndarray, "H W"], names: Mapping[int, str] | None = None) -> tuple[Region, ...]:
    """Return the regions of a label map by number; 0 is background."""
    regions = []
    for label in np.unique(labels[labels > 0]).tolist():
        rows, columns = np.nonzero(labels == label)
        left, top = int(columns.min()), int(rows.min())
        bbox = (left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top)
        regions.append(Region(id=label, bbox=bbox, area=len(rows), name=(names or {}).get(label, str(label))))
    return tuple(regions)


@dataclass(frozen=True, kw_only=True)
class TrackedFrame:
    """A frame of a video with the objects found in it."""

    name: str
    """The frame's file name without its suffix, or its number, from 00000."""
    image: Image.Image = field(repr=False)
    labels: Int[np.ndarray, "H W"] = field(repr=False)
    """Each pixel's object, 0 for background."""
    time: float | None = None
    """Of a video's frame: seconds from its first one."""

    @property
    def objects(self) -> tuple[Region, ...]:
        """The objects in the frame; lost ones are missing."""
        return list_regions(self.labels)

    def draw(self) -> Image.Image:
        """Return the frame with its objects coloured and outlined."""
        return draw_objects(self.image, self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Return the name, the time of a video's frame, and the objects' numbers, boxes and areas."""
        objects = [{"id": item.id, "bbox": list(item.bbox), "area": item.area} for item in self.objects]
        return {**_moment(self), "objects": objects}


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """An image divided into regions or classes."""

    name: str
    image: Image.Image = field(repr=False)
    labels: Int[np.ndarray, "H W"] = field(repr=False)
    """Each pixel's region or class, 0 for background."""
    model: str
    """The encoder."""
    head: str | None = None
    names: Mapping[int, str] = field(default_factory=dict, repr=False)
    """The classes' names by label."""
    time: float | None = None
    """Of a frame: seconds from the video's first one."""

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions or classes in the image."""
        return list_regions(self.labels, self.names)

    def draw(self) -> Image.Image:
        """Return the image with its regions coloured and outlined."""
        return draw_objects(self.image, self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pixels."""
        fields = {"image": self.name, "time": self.time, "model": self.model, "head": self.head}
        known = {name: value for name, value in fields.items() if value is not None}
        return {**known, "regions": [asdict(item) for item in self.regions]}


@dataclass(frozen=True, kw_only=True)
class DepthEstimate:
    """The depth of an image or a frame."""

    name: str
    image: Image.Image = field(repr=False)
    depth: Float[np.ndarray, "H W"] = field(repr=False)
    """In metres or, if `relative`, in multiples of the image's median depth."""
    relative: bool = False
    time: float | None = None
    """Of a frame: seconds from the video's first one."""

    @property
    def unit(self) -> Literal["m", "of the median"]:
        """The unit of the depth."""
        return "of the median" if self.relative else "m"

    @property
    def percentiles(self) -> tuple[float, float, float]:
        """The nearest, median and farthest depth."""
        nearest, median, farthest = np.percentile(self.depth, (0, 50, 100)).tolist()
        return nearest, median, farthest

    def draw(self) -> Image.Image:
        """Return the depth as colours; near is bright."""
        return Image.fromarray(depth_colours(self.depth))

    def to_dict(self) -> dict[str, Any]:
        """Return the unit, and the nearest, median and farthest depth."""
        nearest, median, farthest = self.percentiles
        return {**_moment(self), "unit": self.unit, "nearest": nearest, "median": median, "farthest": farthest}


def _moment(found: TrackedFrame | DepthEstimate | Detections) -> dict[str, Any]:
    return {"name": found.name} | ({} if found.time is None else {"time": found.time})


@dataclass(frozen=True)
class Detections(Detected):
    """The objects detected in an image or a frame, best first; boxes are in its pixels."""

    name: str
    image: Image.Image = field(repr=False)
    categories: tuple[tuple[int, str], ...] = field(repr=False)
    """Ids and names of the detector's classes; `labels` are their 1-based indices."""
    time: float | None = None
    """Of a frame: seconds from the video's first one."""

    def draw(self) -> Image.Image:
        """Return the image with boxes, names, scores and masks."""
        return draw_detections(self.image, self, [name for _, name in self.categories])

    def to_dict(self) -> dict[str, Any]:
        """Return each object's class, score and box (left, top, width, height in pixels, as in COCO)."""
        objects = []
        for box, label, score in zip(self.boxes.tolist(), self.labels.tolist(), self.scores.tolist(), strict=True):
            (left, top, right, bottom), (category, name) = box, self.categories[label - 1]
            bbox = [round(value, 2) for value in (left, top, right - left, bottom - top)]
            objects.append({"class_id": category, "class": name, "score": round(score, 6), "bbox": bbox})
        return {**_moment(self), "objects": objects}
