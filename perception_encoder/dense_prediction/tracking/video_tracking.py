"""Follow objects through a video of any length by a layer's features (section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image

from perception_encoder.dense_prediction.tracking.label_propagation import LabelPropagator
from perception_encoder.errors import DataError, InputError
from perception_encoder.models.protocols import LayerEncoder

SHORT_SIDE = 480
"""Pixels of a frame's short side as the encoder sees it."""


class LayerOf(NamedTuple):
    """An encoder and the layer that is used."""

    encoder: LayerEncoder
    layer: int
    """0-based."""

    def maps(self, images: Sequence[Image.Image], short_side: int = SHORT_SIDE) -> Float[np.ndarray, "B h w D"]:
        """Features of images of one size, float32, encoded at `short_side` pixels."""
        size = frame_size(images[0].size, short_side, self.encoder.patch_size)
        return self.encoder.encode_layers(images, [self.layer], size)[self.layer].patches


def patch_multiple(length: float, patch: int) -> int:
    """Return the multiple of the patch that is nearest to a length, at least one."""
    return max(1, round(length / patch)) * patch


def frame_size(size: tuple[int, int], short_side: int, patch: int) -> tuple[int, int]:
    """Return height and width at which frames of `size` (width, height) are encoded."""
    scale = short_side / min(size)
    return patch_multiple(size[1] * scale, patch), patch_multiple(size[0] * scale, patch)


def track_objects(
    frames: Iterable[Image.Image],
    first: Int[np.ndarray, "H W"],
    model: LayerOf,
    short_side: int = SHORT_SIDE,
    batch_size: int = 8,
) -> Iterator[tuple[Image.Image, Int[np.ndarray, "H W"]]]:
    """Yield each frame with its labels, the first with its own; `batch_size` frames are encoded at a time.

    `first`: the labels of the first frame, of its size: 0 (background) and any numbers of objects. A frame without
    any of an object's pixels has lost it; it is found again if it still looks like the first or the last frames.
    Raises InputError if the size of the frames changes, DataError for a mask of another size, or without an object,
    and for no frames.
    """
    propagator, size, number = None, None, 0
    numbers = np.union1d([0], first)  # labels are carried as 0 to K
    for batch in _batches(frames, batch_size):
        for row, frame in enumerate(batch):
            size = size or frame.size
            if frame.size != size:
                own, other = (f"{width}x{height}" for width, height in (size, frame.size))
                raise InputError(f"frame {number + row}", f"is of {other} pixels, the first frame of {own}")
        if propagator is None:
            check_first_mask(first, batch[0].size)
        for frame, features in zip(batch, torch.from_numpy(model.maps(batch, short_side)), strict=True):
            if propagator is None:
                propagator = LabelPropagator(features, torch.from_numpy(np.searchsorted(numbers, first)))
                yield frame, first
            else:
                yield frame, numbers[propagator.step(features).numpy()]
        number += len(batch)
    if propagator is None:
        raise DataError("the video has no frames")


def check_first_mask(mask: Int[np.ndarray, "H W"], size: tuple[int, int]) -> None:
    """Raise DataError unless a mask has an object and is of a frame's size (width, height)."""
    if mask.shape != (size[1], size[0]):
        raise DataError(
            f"the mask is of {mask.shape[1]}x{mask.shape[0]} pixels, the first frame of {size[0]}x{size[1]}"
        )
    if not mask.any():
        raise DataError("the first mask is empty: no pixel has an object's number, 1 or above")


def _batches(frames: Iterable[Image.Image], size: int) -> Iterator[list[Image.Image]]:
    batch: list[Image.Image] = []
    for frame in frames:
        batch.append(frame.convert("RGB"))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
