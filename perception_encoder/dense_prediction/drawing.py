"""Draw predictions over images: depth as colours, and detections as boxes, names and masks."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from perception_encoder.dense_prediction.detection.mask_rcnn import Detected
from perception_encoder.dense_prediction.overlay import draw_objects, object_palette

COLOURS = np.array([(252, 255, 164), (249, 142, 9), (188, 55, 84), (87, 16, 110), (0, 0, 4)], dtype=np.float32)
"""From the nearest depth to the farthest: matplotlib's "inferno", reversed, at five points."""
MILLIMETRES = 1000
FARTHEST = 65_535
"""Millimetres that 16 bits hold."""


def depth_colours(depth: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Colour depth by its inverse, from the image's nearest point to its farthest: near is bright."""
    inverse = 1 / np.maximum(depth, 1e-6)
    low, high = float(inverse.min()), float(inverse.max())
    far = 1 - (inverse - low) / max(high - low, 1e-12)
    position = far * (len(COLOURS) - 1)
    below = np.minimum(position.astype(int), len(COLOURS) - 2)
    part = (position - below)[..., None]
    return ((1 - part) * COLOURS[below] + part * COLOURS[below + 1]).round().astype(np.uint8)


def depth_png(depth: Float[np.ndarray, "H W"]) -> bytes:
    """Return depth in metres as the bytes of a 16-bit PNG in millimetres, at most 65.535 m."""
    millimetres = np.clip(np.round(depth * MILLIMETRES), 0, FARTHEST).astype(np.uint16)
    stream = io.BytesIO()
    Image.fromarray(millimetres).save(stream, "PNG")
    return stream.getvalue()


def draw_detections(image: Image.Image, detected: Detected, classes: Sequence[str]) -> Image.Image:
    """Draw boxes with names and scores, and masks if there are some; objects have different colours."""
    drawn = image.convert("RGB")
    if detected.masks is not None:
        labels = np.zeros((image.height, image.width), np.int64)
        for number in range(len(detected.boxes), 0, -1):  # the best lies on top
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
