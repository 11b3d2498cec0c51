"""Split images into tiles by the rules of the published PLM, for a model with a fixed input size to read small text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.preprocess.conversation import MediaPart
from perception_encoder.preprocess.image import to_float

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def tile_grid(width: int, height: int, tile: int, budget: int) -> tuple[int, int]:
    """Return the grid (columns, rows) of square tiles for an image; ConfigError if a number is less than 1.

    Of the grids that hold the image without shrinking it, this is the one on which it can be enlarged most, and of
    equal ones the smallest. If none holds it, this is the one with the nearest aspect ratio (from below for a wide
    image, from above for a tall one) and the most tiles.

    `width`, `height`, `tile`: sides in pixels. `budget`: maximum number of tiles without the thumbnail.
    """
    for name, value in (("width", width), ("height", height), ("tile", tile), ("budget", budget)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1")
    grids = [(columns, rows) for columns in range(1, budget + 1) for rows in range(1, budget // columns + 1)]
    holding = [grid for grid in grids if grid[0] * tile >= width and grid[1] * tile >= height]
    if holding:
        return max(holding, key=lambda grid: (min(grid[0] * tile / width, grid[1] * tile / height), -grid[0] * grid[1]))
    aspect = width / height
    ratios = {columns / rows for columns, rows in grids}
    nearest = max(r for r in ratios if r <= aspect) if aspect >= 1 else min(r for r in ratios if r > aspect)
    return max(grid for grid in grids if grid[0] / grid[1] == nearest)


def tile_image(image: Image.Image, tile: int, budget: int) -> Float[Tensor, "N 3 tile tile"]:
    """Return the thumbnail and the tiles of an image, N = 1 + columns · rows, row by row, pixels in [-1, 1].

    `tile`, `budget`: see `tile_grid`. Both are resized bicubically, ignoring the aspect ratio.
    """
    import torch

    image = image.convert("RGB")
    columns, rows = tile_grid(image.width, image.height, tile, budget)
    canvas = np.asarray(image.resize((columns * tile, rows * tile), Image.Resampling.BICUBIC))
    tiles = canvas.reshape(rows, tile, columns, tile, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, tile, tile)
    thumbnail = np.asarray(image.resize((tile, tile), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    return to_float(torch.from_numpy(np.concatenate([thumbnail[None], tiles])))


@dataclass(frozen=True, kw_only=True)
class MediaConfig:
    """How to convert images and videos to inputs of the encoder."""

    image_size: int
    """Side of an image, a tile or a frame, in pixels."""
    tiles: int = 4
    """Maximum number of tiles beside the thumbnail of a conversation's only image; 0 or 1: only the thumbnail."""


def media_pixels(item: MediaPart, config: MediaConfig, alone: bool = True) -> Float[Tensor, "N 3 S S"]:
    """Return the pixels of an image's thumbnail and tiles, or of a video's frames; S is `config.image_size`.

    `alone`: the item is the only one of its conversation, so an image is tiled.
    """
    import torch

    size = config.image_size
    if not isinstance(item, Image.Image):
        return torch.cat([tile_image(frame, size, 1)[:1] for frame in item.images])
    return tile_image(item, size, config.tiles) if alone and config.tiles > 1 else tile_image(item, size, 1)[:1]
