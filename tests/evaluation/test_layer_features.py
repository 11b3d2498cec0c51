"""Tokens of one layer: cached, or computed again, and the same."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from perception_encoder.datasets.image_set import ImageSet
from perception_encoder.errors import ConfigError, DataError, InputError, ModelError
from perception_encoder.evaluation import layer_features as module
from perception_encoder.evaluation.layer_features import (
    ComputedTokens,
    LayerImages,
    OneLayer,
    content_digest,
    encode_layer,
)
from tests.evaluation.layers import ColourLayers, png

GREYS = ImageSet(
    name="greys",
    keys=tuple("abcd"),
    images=tuple(b"cut" if grey == 60 else png(np.full((8, 16, 3), grey, np.uint8)) for grey in (0, 60, 120, 180)),
)


def images(image_set: ImageSet = GREYS) -> LayerImages:
    return LayerImages.of("greys, test", image_set, lambda row: None)


def test_features_that_do_not_fit_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    model = OneLayer(ColourLayers(4, (8, 16)), 0)
    cached, computed = encode_layer(model, images()), encode_layer(model, images(), cache=0)
    assert isinstance(computed.tokens, ComputedTokens) and not isinstance(cached.tokens, ComputedTokens)
    assert cached.rows.tolist() == computed.rows.tolist() == [0, 2, 3]
    assert cached.patches.shape == computed.patches.shape == (3, 2, 4, 3) == cached.patches[:].shape
    for rows in (slice(1, 3), np.array([2, 0]), slice(None)):
        assert (cached.patches[rows] == computed.patches[rows]).all()
        assert (cached.tokens[rows] == computed.tokens[rows]).all()
    assert (cached.mean() == computed.mean()).all()
    assert [failure.source for failure in cached.failures] == [failure.source for failure in computed.failures] == ["b"]


def test_images_none_of_which_can_be_decoded_have_no_rows() -> None:
    features = encode_layer(OneLayer(ColourLayers(), 0), images(GREYS.select([1])))
    assert len(features.rows) == len(features.tokens) == 0 and len(features.failures) == 1


def test_an_image_whose_target_fails_is_not_encoded() -> None:
    def target(row: int) -> None:
        if row == 2:
            raise InputError("c (mask)", "is empty")

    features = encode_layer(OneLayer(ColourLayers(), 0), LayerImages.of("greys", GREYS, target))
    assert features.rows.tolist() == [0, 3] and [each.source for each in features.failures] == ["b", "c (mask)"]


def test_the_digest_is_that_of_the_content_and_of_what_is_left_out() -> None:
    assert images().digest == content_digest(GREYS.images) != images(GREYS.select([0, 1])).digest

    def target(row: int) -> None:
        raise InputError(str(row), "is empty")

    assert LayerImages.of("greys", GREYS, target).digest == f"{images().digest}, without [0, 1, 2, 3]"


def test_layers_that_do_not_exist_and_features_that_are_not_finite() -> None:
    with pytest.raises(ConfigError, match="layer 3 does not exist; colours has layers 0 to 2"):
        OneLayer(ColourLayers(), 3)
    with pytest.raises(ModelError, match="colours, layer 2, gives NaN or infinity in 3 of 3 vectors of greys, test"):
        encode_layer(OneLayer(ColourLayers(), 2), images())


def test_a_mix_of_images_and_videos_is_refused() -> None:
    mixed = LayerImages(
        name="mixed",
        keys=("a", "b"),
        open=lambda row: [Image.new("RGB", (8, 8))] * (row + 1),
        compute_digest=lambda: "",
    )
    with pytest.raises(DataError, match="mixed mixes images and videos"):
        encode_layer(OneLayer(ColourLayers(), 0), mixed)
