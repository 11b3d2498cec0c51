"""Features of several encoders in one image."""

from __future__ import annotations

import numpy as np
from PIL import Image

from perception_encoder.inference.load import load_layers
from perception_encoder.layer_analysis.plots import GAP, LEAST_SIDE, Column, features_side_by_side


def test_each_encoder_has_a_column_and_each_image_a_row() -> None:
    encoder = load_layers("builtin")
    seen: list[tuple[int, int] | None] = []
    encode = encoder.encode_layers

    def watched(images, layers, image_size=None):
        seen.append(image_size)
        return encode(images, layers, image_size)

    encoder.encode_layers = watched
    pixels = np.random.default_rng(0).integers(0, 255, (30, 60, 3)).astype(np.uint8)
    images = [Image.fromarray(pixels), Image.new("RGB", (40, 40), "blue")]
    columns = [Column(encoder, 11), Column(encoder, 3)]
    drawn = features_side_by_side(columns, images, cell=100)
    assert drawn.size == (3 * 100 + 2 * GAP, 50 + 100 + GAP)
    assert seen[0] == (LEAST_SIDE // 2, LEAST_SIDE) and seen[2] == (LEAST_SIDE, LEAST_SIDE)
    first, second = (np.asarray(drawn)[:50, at : at + 100] for at in (106, 212))
    assert not np.array_equal(first, second)
    few = features_side_by_side(columns[:1], images[:1], patches=4, cell=64)
    assert seen[-1] == (32, 64) and len(few.crop((70, 0, 134, 32)).getcolors(10_000)) <= 8
