"""Draw predictions over images: depth as colours, detections as boxes, labels with DAVIS's palette."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from perception_encoder.dense_prediction.detection.detections import Detected
from perception_encoder.errors import ConfigError
from perception_encoder.files import replacing, writing
from perception_encoder.preprocess.image import image_file

COLOURS = np.array([(252, 255, 164), (249, 142, 9), (188, 55, 84), (87, 16, 110), (0, 0, 4)], dtype=np.float32)
"""Colours from the nearest depth to the farthest: matplotlib's "inferno", reversed, at five points."""


def depth_colours(depth: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Return depth as colours of its inverse, from nearest (bright) to farthest."""
    inverse = 1 / np.maximum(depth, 1e-6)
    low, high = float(inverse.min()), float(inverse.max())
    far = 1 - (inverse - low) / max(high - low, 1e-12)
    stops = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(far, stops, channel) for channel in COLOURS.T], axis=-1).round().astype(np.uint8)


def depth_png(depth: Float[np.ndarray, "H W"]) -> bytes:
    """Return depth in metres as a 16-bit PNG in millimetres, at most 65.535 m."""
    return image_file(Image.fromarray(np.clip(np.round(depth * 1000), 0, 65_535).astype(np.uint16)), "PNG")


def draw_detections(image: Image.Image, detected: Detected, classes: Sequence[str]) -> Image.Image:
    """Draw boxes with names and scores, and masks if any, in a colour per object."""
    drawn = image.convert("RGB")
    if detected.masks is not None:
        labels = np.zeros((image.height, image.width), np.int64)
        for number in range(len(detected.boxes), 0, -1):  # the best is on top
            labels[detected.masks[number - 1]] = number
        drawn = draw_objects(drawn, labels)
    pen = ImageDraw.Draw(drawn)
    palette = object_palette()
    for number, (box, label, score) in enumerate(
        zip(detected.boxes, detected.labels, detected.scores, strict=True), start=1
    ):
        colour = tuple(palette[(number - 1) % 255 + 1].tolist())
        pen.rectangle(box.tolist(), outline=colour, width=2)
        text = f"{classes[label - 1]} {score:.2f}"
        left, top = float(box[0]), max(0.0, float(box[1]) - 12)
        pen.rectangle(pen.textbbox((left, top), text), fill=colour)
        pen.text((left, top), text, fill="white")
    return drawn


STRENGTH = 0.5
"""Opacity of an object's colour over the image."""


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
    colours, opacity = _paint(labels)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return Image.fromarray(((1 - opacity) * pixels + opacity * colours).round().astype(np.uint8))


def _paint(labels: Int[np.ndarray, "H W"]) -> tuple[np.ndarray, np.ndarray]:
    """Return each pixel's colour (H, W, 3), 0 to 255, and opacity (H, W, 1); outlines are light and opaque."""
    padded = np.pad(labels, 1, mode="edge")
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    inside = (labels > 0)[..., None]
    edges = inside & np.any([other != labels for other in around], axis=0)[..., None]
    colours = object_palette()[labels % 256].astype(np.float32)
    opacity = np.where(edges, 1.0, np.where(inside, STRENGTH, 0.0))
    return np.where(edges, (colours + 255) / 2, colours), opacity.astype(np.float32)


def write_image(image: Image.Image, path: Path) -> None:
    """Write an image as PNG, whole or not at all; ConfigError for another suffix, OutputError if it fails."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{path} is written as PNG; its name must end in .png")
    with writing(path), replacing(path) as temporary:
        image.save(temporary, "PNG", optimize=True)


def write_png(content: bytes, path: Path) -> None:
    """Write a PNG's content in a directory, which is made; OutputError if that fails."""
    with writing(path), replacing(path) as temporary:
        temporary.write_bytes(content)
