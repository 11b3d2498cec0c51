"""Wrap a teacher: a frozen two-tower model of any size, library or tokenizer.

It gets captions as strings, so it uses its own tokenizer, and images at its own size: those of a batch are at least
that large, and both models scale them down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from perception_encoder.errors import ConfigError
from perception_encoder.files import digest
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load
from perception_encoder.training.distributed import own_device

T = TypeVar("T", Image.Image, str)


class Teacher:
    """An `Encoder` as a teacher.

    `image_size`: side of its images, in pixels. `identity`: of its weights; part of the run's fingerprint. `remember`:
    number of images and captions whose embeddings are cached. Those are encoded one at a time, so that they depend
    neither on the rest of the batch nor on where a run was resumed.
    """

    def __init__(self, encoder: Encoder, image_size: int, identity: str, remember: int = 0) -> None:
        self.encoder, self.image_size, self.identity, self.remember = encoder, image_size, identity, remember
        self._cache: dict[str, np.ndarray] = {}

    def embed(
        self, images: UInt8[Tensor, "B 3 H W"], texts: Sequence[str]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "U D"]]:
        """Return unit embeddings of images and texts, float32, on the CPU."""
        pil_images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images.cpu()]
        image_vectors = self._encode(pil_images, self.encoder.encode_images)
        return image_vectors, self._encode(list(texts), self.encoder.encode_texts)

    def _encode(self, inputs: list[T], encode: Callable[[Sequence[T]], np.ndarray]) -> Tensor:
        if not self.remember or not inputs:
            return torch.from_numpy(encode(inputs))
        rows = []
        for item in inputs:
            key = digest(item) if isinstance(item, str) else digest(item.size, item.tobytes())
            row = self._cache.get(key)
            if row is None:
                row = encode([item])[0]
                if len(self._cache) < self.remember:
                    self._cache[key] = row
            rows.append(row)
        return torch.from_numpy(np.stack(rows))


def load_teacher(name: str, remember: int = 0) -> Teacher:
    """Load a model of this package, by name, alias or path, on this rank's device, bfloat16 where that is fast.

    Raises what `load` does, and ConfigError for a model without a text tower.
    """
    encoder = load(name, own_device())
    if encoder.tokenizer is None:
        raise ConfigError(f"the teacher is {name}, which has no text tower; use a Core model")
    return Teacher(encoder, encoder.visual.config.image_size, encoder.weight_hash, remember)
