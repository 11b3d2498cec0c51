"""An encoder that sees only colours, and shards of images in one colour: the colour is in the label."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perception_encoder.formats.shards import SPLITS, ShardSample
from perception_encoder.inference.encoder import Encoder
from synthetic.shards import write_shard

RGB = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220), "white": (255, 255, 255)}


class ColourEncoder(Encoder):
    """An image's vector is its mean colour, a text's that of the colour it names."""

    name = "colours"

    def __init__(self) -> None:
        self.image_count = 0
        self.texts = 0

    @property
    def reads_texts(self) -> bool:
        return True

    @property
    def about(self) -> dict[str, str]:
        return {"weights": self.name}

    def variant(self, **options: Any) -> ColourEncoder:
        return type(self)()

    def encode_images(self, images: Any, normalize: bool = True, **options: Any) -> np.ndarray:
        self.image_count += len(images)
        means = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32).mean(axis=(0, 1)) for image in images])
        return unit(means) if normalize else means

    def encode_texts(self, texts: Any, normalize: bool = True, **options: Any) -> np.ndarray:
        self.texts += len(texts)
        named = [next((rgb for name, rgb in RGB.items() if name in text), (1, 1, 1)) for text in texts]
        return unit(np.array(named, dtype=np.float32))


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
