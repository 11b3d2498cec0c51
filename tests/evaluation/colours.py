"""Towers that see only colours, and shards of images in one colour: the colour is in the label."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from perception_encoder.formats.shards import SPLITS, ShardSample
from perception_encoder.inference.encoder import Encoder
from perception_encoder.runtime.torch_towers import TorchThreads
from perception_encoder.runtime.towers import Towers
from synthetic.shards import write_shard

RGB = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220), "white": (255, 255, 255)}


class Mean:
    """A transform of images to their mean colour."""

    size, mode = None, "squash"

    def pixels(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.convert("RGB"), dtype=np.float32).mean(axis=(0, 1))


class ColourTowers(Towers):
    """An image's vector is its mean colour, a text's that of the colour it names."""

    name, weight_hash, output_width, reads_texts = "colours", "colours", 3, True

    def __init__(self) -> None:
        self.runtime = Alone()
        self.image_count, self.text_count = 0, 0

    def transform(self, mode: str) -> Mean:
        return Mean()

    def settings(self, layer: int | None) -> dict[str, str]:
        return {"weights": self.name}

    def images(self, pixels: Sequence[Any], layer: int, pool: str, role: Any = None) -> np.ndarray:
        self.image_count += len(pixels)
        return np.stack(pixels)

    def texts(self, texts: Sequence[str], role: Any = None) -> np.ndarray:
        self.text_count += len(texts)
        named = [next((rgb for name, rgb in RGB.items() if name in text), (1, 1, 1)) for text in texts]
        return np.array(named, dtype=np.float32)


class Alone(TorchThreads):
    """A runtime of one thread, so that counters count."""

    workers = 1

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"), torch.float32, 8)


def colour_encoder() -> Encoder:
    return Encoder(ColourTowers())


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def image_bytes(colour: str, shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (24, 16), tuple(max(0, level - shade) for level in RGB[colour])).save(stream, "PNG")
    return stream.getvalue()


def write_colours(
    path: Path, source: str, labels: Sequence[str], coarse: bool = False, broken: Sequence[int] = ()
) -> Path:
    """Write a shard whose image i has the colour that label i names; those of `broken` cannot be decoded."""
    split = path.stem if path.stem in SPLITS else path.parent.name  # no two splits hold the same image
    samples = []
    for index, label in enumerate(labels):
        colour = next(name for name in RGB if name in label)
        metadata = {"source": source, "label": label, **({"coarse": f"{colour} thing"} if coarse else {})}
        content = b"\x89PNG cut" if index in broken else image_bytes(colour, shade=index + 8 * SPLITS.index(split))
        samples.append(ShardSample(f"{source}-{index}", "png", content, metadata))
    write_shard(path, samples)
    return path
