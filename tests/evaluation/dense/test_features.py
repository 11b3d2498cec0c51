"""Features of many pictures: kept, or computed anew, and the same."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import ConfigError, MediaDecodeError
from perception_encoder.evaluation.dense.features import ComputedMaps, check_layer, encode_decodable, patch_multiple
from tests.evaluation.layers import ColourLayers


class Greys:
    name, keys = "greys", ("a", "b", "c", "d")

    def open(self, place: int) -> Image.Image:
        if place == 1:
            raise MediaDecodeError("b", "is broken")
        return Image.new("RGB", (16, 8), (60 * place,) * 3)


def test_features_that_do_not_fit_are_computed_anew() -> None:
    encoder = ColourLayers(4, (8, 16))
    kept = encode_decodable(encoder, 0, Greys(), str)
    anew = encode_decodable(encoder, 0, Greys(), str, kept=0)
    assert isinstance(anew.maps, ComputedMaps) and not isinstance(kept.maps, ComputedMaps)
    assert kept.rows.tolist() == anew.rows.tolist() == [0, 2, 3] and kept.maps.shape == anew.maps.shape == (3, 2, 4, 3)
    for rows in (slice(1, 3), np.array([2, 0]), slice(None)):
        assert (kept.maps[rows] == anew.maps[rows]).all()
    assert [failure.source for failure in kept.failures] == [failure.source for failure in anew.failures] == ["b"]


def test_layers_and_sizes() -> None:
    with pytest.raises(ConfigError, match="layer 3 does not exist; colours has layers 0 to 2"):
        check_layer(ColourLayers(), 3)
    assert [patch_multiple(length, 14) for length in (1, 20, 480)] == [14, 14, 476]
