"""Small drawings that the built-in model recognises, for tests of the whole way that need no photographs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

Draw = ImageDraw.ImageDraw


def rose(draw: Draw) -> None:
    draw.line((64, 70, 64, 124), fill=(40, 130, 50), width=5)
    draw.ellipse((24, 4, 104, 80), fill=(200, 20, 40))
    draw.ellipse((36, 12, 92, 60), fill=(230, 50, 70))
    draw.ellipse((50, 22, 80, 48), fill=(170, 10, 30))


def apple(draw: Draw) -> None:
    draw.ellipse((22, 34, 106, 118), fill=(200, 30, 40))
    draw.line((64, 36, 70, 12), fill=(100, 60, 30), width=6)
    draw.ellipse((70, 12, 100, 30), fill=(60, 160, 60))


def heart(draw: Draw) -> None:
    draw.ellipse((20, 20, 68, 68), fill=(60, 90, 220))
    draw.ellipse((60, 20, 108, 68), fill=(60, 90, 220))
    draw.polygon((22, 54, 106, 54, 64, 112), fill=(60, 90, 220))


def sun(draw: Draw) -> None:
    draw.ellipse((30, 30, 98, 98), fill=(255, 200, 30))
    for turn in range(12):
        x, y = math.cos(turn * math.pi / 6), math.sin(turn * math.pi / 6)
        draw.line((64 + 40 * x, 64 + 40 * y, 64 + 60 * x, 64 + 60 * y), fill=(255, 170, 0), width=5)


def tree(draw: Draw) -> None:
    draw.rectangle((56, 80, 72, 124), fill=(120, 70, 30))
    draw.polygon((64, 6, 20, 88, 108, 88), fill=(30, 120, 50))


DRAWINGS: dict[str, Callable[[Draw], None]] = {"apple": apple, "heart": heart, "rose": rose, "sun": sun, "tree": tree}
TEXTS = {"apple": "a red apple", "heart": "a blue heart", "sun": "a yellow sun", "tree": "a green tree"}
"""To the built-in model, each of these drawings is more similar to its own text than to the others."""


def write_drawing(name: str, path: Path, side: int = 128) -> Path:
    """Write a drawing as an image file, scaled to a side in pixels; returns its path."""
    image = Image.new("RGB", (128, 128), "white")
    DRAWINGS[name](ImageDraw.Draw(image))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((side, side)).save(path)
    return path
