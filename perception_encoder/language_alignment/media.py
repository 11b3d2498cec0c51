"""Bring images and videos to a language model's encoder: the thumbnail and tiles of an image, the frames of a video."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from perception_encoder.preprocess.conversation import MediaPart
from perception_encoder.preprocess.tiling import tile_image


@dataclass(frozen=True, kw_only=True)
class MediaConfig:
    """How images and videos are brought to the encoder."""

    image_size: int
    """Side of an image, a tile or a frame, in pixels."""
    tiles: int = 4
    """Most tiles beside the thumbnail of a conversation's only image; 0 or 1 for the thumbnail alone."""
    tile_each: bool = False
    """Tile every image of several, too; as in the reference, by default each of several is a thumbnail alone."""


def media_pixels(item: MediaPart, config: MediaConfig, alone: bool = True) -> Float[Tensor, "N 3 S S"]:
    """Pixels of an image's thumbnail and tiles, or of a video's frames; N is their number, S `config.image_size`.

    `alone`: the item is a conversation's only one, so an image is tiled.
    """
    size = config.image_size
    if not isinstance(item, Image.Image):
        return torch.cat([tile_image(frame, size, 1)[:1] for frame in item.images])
    tiled = config.tiles > 1 and (alone or config.tile_each)
    return tile_image(item, size, config.tiles) if tiled else tile_image(item, size, 1)[:1]
