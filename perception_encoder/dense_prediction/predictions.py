"""Results of heads and tracking for an image or a frame: depth, regions or objects, ready to draw and to store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from perception_encoder.dense_prediction.detection.detections import Detected
from perception_encoder.errors import ConfigError
from perception_encoder.files import replacing, writing
from perception_encoder.preprocess.image import image_file


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
class ImageResult:
    """The result for an image or a frame."""

    name: str
    """Of the image, or of the frame: its file name without a suffix, or its number from 00000."""
    image: Image.Image = field(repr=False)
    time: float | None = None
    """Of a video's frame: seconds from its first one."""

    def _moment(self) -> dict[str, Any]:
        """Return the name, and the time of a frame."""
        return {"name": self.name} | ({} if self.time is None else {"time": self.time})


@dataclass(frozen=True, kw_only=True)
class LabelledResult(ImageResult):
    """An image or a frame with a label for each pixel."""

    labels: Int[np.ndarray, "H W"] = field(repr=False)
    """Each pixel's object, region or class, 0 for background."""

    def draw(self) -> Image.Image:
        """Return the image with its objects, regions or classes coloured and outlined."""
        return draw_objects(self.image, self.labels)


@dataclass(frozen=True, kw_only=True)
class TrackedFrame(LabelledResult):
    """A frame of a video with the objects found in it."""

    @property
    def objects(self) -> tuple[Region, ...]:
        """The objects in the frame; lost ones are missing."""
        return list_regions(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Return the name, the time of a video's frame, and the objects' numbers, boxes and areas."""
        objects = [{"id": item.id, "bbox": list(item.bbox), "area": item.area} for item in self.objects]
        return {**self._moment(), "objects": objects}


@dataclass(frozen=True, kw_only=True)
class Segmentation(LabelledResult):
    """An image divided into regions or classes."""

    model: str
    """The encoder."""
    head: str | None = None
    names: Mapping[int, str] = field(default_factory=dict, repr=False)
    """The classes' names by label."""

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions or classes in the image."""
        return list_regions(self.labels, self.names)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pixels."""
        fields = {"image": self.name, "time": self.time, "model": self.model, "head": self.head}
        known = {name: value for name, value in fields.items() if value is not None}
        return {**known, "regions": [asdict(item) for item in self.regions]}


@dataclass(frozen=True, kw_only=True)
class DepthEstimate(ImageResult):
    """The depth of an image or a frame."""

    depth: Float[np.ndarray, "H W"] = field(repr=False)
    """In metres or, if `relative`, in multiples of the image's median depth."""
    relative: bool = False

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
        """Return the depth as colours of its inverse; near is bright."""
        inverse = 1 / np.maximum(self.depth, 1e-6)
        low, high = float(inverse.min()), float(inverse.max())
        far = 1 - (inverse - low) / max(high - low, 1e-12)
        stops = np.linspace(0, 1, len(COLOURS))
        pixels = np.stack([np.interp(far, stops, channel) for channel in COLOURS.T], axis=-1)
        return Image.fromarray(pixels.round().astype(np.uint8))

    def to_dict(self) -> dict[str, Any]:
        """Return the unit, and the nearest, median and farthest depth."""
        nearest, median, farthest = self.percentiles
        return {**self._moment(), "unit": self.unit, "nearest": nearest, "median": median, "farthest": farthest}


@dataclass(frozen=True, kw_only=True)
class Detections(ImageResult, Detected):
    """The objects detected in an image or a frame, best first; boxes are in its pixels."""

    categories: tuple[tuple[int, str], ...] = field(repr=False)
    """Ids and names of the detector's classes; `labels` are their 1-based indices."""

    def draw(self) -> Image.Image:
        """Return the image with boxes, names, scores and masks, in a colour per object; the best are on top."""
        drawn, palette = self.image.convert("RGB"), object_palette()
        if self.masks is not None:
            numbers = np.zeros((drawn.height, drawn.width), np.int64)
            for number in range(len(self.boxes), 0, -1):
                numbers[self.masks[number - 1]] = number
            drawn = draw_objects(drawn, numbers)
        pen = ImageDraw.Draw(drawn)
        for number, (box, label, score) in enumerate(zip(self.boxes, self.labels, self.scores, strict=True)):
            colour = tuple(palette[number % 255 + 1].tolist())
            pen.rectangle(box.tolist(), outline=colour, width=2)
            text = f"{self.categories[label - 1][1]} {score:.2f}"
            left, top = float(box[0]), max(0.0, float(box[1]) - 12)
            pen.rectangle(pen.textbbox((left, top), text), fill=colour)
            pen.text((left, top), text, fill="white")
        return drawn

    def to_dict(self) -> dict[str, Any]:
        """Return each object's class, score and box (left, top, width, height in pixels, as in COCO)."""
        objects = []
        for box, label, score in zip(self.boxes.tolist(), self.labels.tolist(), self.scores.tolist(), strict=True):
            (left, top, right, bottom), (category, name) = box, self.categories[label - 1]
            bbox = [round(value, 2) for value in (left, top, right - left, bottom - top)]
            objects.append({"class_id": category, "class": name, "score": round(score, 6), "bbox": bbox})
        return {**self._moment(), "objects": objects}


COLOURS = np.array([(252, 255, 164), (249, 142, 9), (188, 55, 84), (87, 16, 110), (0, 0, 4)], dtype=np.float32)
"""Colours from the nearest depth to the farthest: matplotlib's "inferno", reversed, at five points."""


def depth_png(depth: Float[np.ndarray, "H W"]) -> bytes:
    """Return depth in metres as a 16-bit PNG in millimetres, at most 65.535 m."""
    return image_file(Image.fromarray(np.clip(np.round(depth * 1000), 0, 65_535).astype(np.uint16)), "PNG")


STRENGTH = 0.5  # opacity of an object's colour over the image


def object_palette() -> UInt8[np.ndarray, "256 3"]:
    """Return PASCAL VOC's label colours, which DAVIS uses: 0 is black, 1 dark red, 2 dark green."""
    labels = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for power in range(8):  # bits 1, 2, 3 of a label go to red, green and blue, then bits 4, 5, 6, …
        for channel in range(3):
            colours[:, channel] |= (((labels >> (3 * power + channel)) & 1) << (7 - power)).astype(np.uint8)
    return colours


def mask_png(labels: Int[np.ndarray, "H W"]) -> bytes:
    """Return labels as a PNG whose pixels are the labels, with a palette for viewers; of 16 bits if one is over 255."""
    if labels.max(initial=0) > 255:
        return image_file(Image.fromarray(labels.astype(np.uint16)), "PNG")
    image = Image.fromarray(labels.astype(np.uint8), mode="P")
    image.putpalette(object_palette().tobytes())
    return image_file(image, "PNG")


def draw_objects(image: Image.Image, labels: Int[np.ndarray, "H W"]) -> Image.Image:
    """Return the image with its objects coloured and outlined; the background is unchanged."""
    padded = np.pad(labels, 1, mode="edge")
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    inside = (labels > 0)[..., None]
    edges = inside & np.any([other != labels for other in around], axis=0)[..., None]
    colours = object_palette()[labels % 256].astype(np.float32)
    opacity = np.where(edges, 1.0, np.where(inside, STRENGTH, 0.0))
    colours, opacity = np.where(edges, (colours + 255) / 2, colours), opacity.astype(np.float32)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return Image.fromarray(((1 - opacity) * pixels + opacity * colours).round().astype(np.uint8))


def write_image(image: Image.Image, path: Path) -> None:
    """Write an image as PNG, whole or not at all; ConfigError for another suffix, OutputError if it fails."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{path} is written as PNG; its name must end in .png")
    with writing(path), replacing(path) as temporary:
        image.save(temporary, "PNG", optimize=True)
