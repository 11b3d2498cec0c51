"""Features of images by several encoders, one beside the other, as the paper draws them in section 5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from perception_encoder.inference.feature_map import map_grid, to_colours
from perception_encoder.inference.layer_features import LayerFeatures

LEAST_SIDE = 512
"""Pixels of an image's longer side as the encoders see it, at least; the paper draws images of 512 px and above."""
CELL, GAP = 256, 6
"""Pixels of a cell's longer side, and between cells."""


class Column(NamedTuple):
    """An encoder and the layer whose features are drawn."""

    encoder: LayerFeatures
    layer: int
    """0-based."""


def features_side_by_side(
    columns: Sequence[Column], images: Sequence[Image.Image], patches: int | None = None, cell: int = CELL
) -> Image.Image:
    """Draw a row for each image: the image, then its features by each encoder, in their order.

    Each has colours of its own, by the protocol of `to_colours`. `patches`: along the longer side, by default as many
    as make `LEAST_SIDE` px of each encoder's patches. `cell`: pixels of a cell's longer side.
    """
    rows = [[image.convert("RGB"), *(_map(column, image, patches) for column in columns)] for image in images]
    sizes = [_scaled(image.size, cell) for image in images]
    width = (cell + GAP) * (1 + len(columns)) - GAP
    canvas = Image.new("RGB", (width, sum(height + GAP for _, height in sizes) - GAP), "white")
    top = 0
    for row, size in zip(rows, sizes, strict=True):
        for number, own in enumerate(row):
            how = Image.Resampling.NEAREST if number else Image.Resampling.BICUBIC
            canvas.paste(own.resize(size, how), (number * (cell + GAP), top))
        top += size[1] + GAP
    return canvas


def _map(column: Column, image: Image.Image, patches: int | None) -> Image.Image:
    patch = column.encoder.patch_size
    height, width = map_grid(image.size, patches or -(-LEAST_SIDE // patch))
    tokens = column.encoder.encode_layers([image], [column.layer], (height * patch, width * patch))[column.layer]
    return Image.fromarray(np.asarray(to_colours(tokens.patches[0])))


def _scaled(size: tuple[int, int], longer: int) -> tuple[int, int]:
    factor = longer / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
