"""Labels as images: object masks with DAVIS's palette, and drawn over the image they belong to."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

STRENGTH = 0.5
"""Of an object's colour over the image."""


def object_palette() -> UInt8[np.ndarray, "256 3"]:
    """Return PASCAL VOC's colours of labels, which DAVIS uses: label 0 is black, 1 dark red, 2 dark green."""
    labels = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for power in range(8):  # of a label's bits the 1st, 2nd and 3rd, then the 4th to 6th, … go to red, green and blue
        for channel in range(3):
            colours[:, channel] |= (((labels >> (3 * power + channel)) & 1) << (7 - power)).astype(np.uint8)
    return colours


def mask_png(labels: Int[np.ndarray, "H W"]) -> bytes:
    """Return labels, 0 to 255, as the bytes of a PNG whose pixels are the labels, with a palette for viewers."""
    image = Image.fromarray(labels.astype(np.uint8), mode="P")
    image.putpalette(object_palette().tobytes())
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def draw_objects(image: Image.Image, labels: Int[np.ndarray, "H W"]) -> Image.Image:
    """Return the image with each object in its colour and outlined; background stays as it is."""
    colours, opacity = _paint(labels)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return Image.fromarray(((1 - opacity) * pixels + opacity * colours).round().astype(np.uint8))


def overlay_png(labels: Int[np.ndarray, "H W"]) -> bytes:
    """Return what `draw_objects` draws over an image as the bytes of a PNG, transparent where the background is."""
    colours, opacity = _paint(labels)
    stream = io.BytesIO()
    Image.fromarray(np.concatenate([colours, 255 * opacity], axis=-1).round().astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _paint(labels: Int[np.ndarray, "H W"]) -> tuple[np.ndarray, np.ndarray]:
    """Return the colour of each pixel (H, W, 3), 0 to 255, and its opacity (H, W, 1); outlines are light and opaque."""
    inside = (labels > 0)[..., None]
    edges = inside & _edges(labels)[..., None]
    colours = object_palette()[labels % 256].astype(np.float32)
    opacity = np.where(edges, 1.0, np.where(inside, STRENGTH, 0.0))
    return np.where(edges, (colours + 255) / 2, colours), opacity.astype(np.float32)


def _edges(labels: Int[np.ndarray, "H W"]) -> np.ndarray:
    """Pixels with another label above, below or beside them."""
    padded = np.pad(labels, 1, mode="edge")
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.asarray(np.any([other != labels for other in around], axis=0))
