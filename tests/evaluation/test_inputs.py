"""What evaluators of layers take: inputs with usable targets, and a layer that exists."""

from __future__ import annotations

import numpy as np
import pytest

from perception_encoder.datasets.image_set import ImageSet
from perception_encoder.errors import ConfigError, InputError, ModelError
from perception_encoder.evaluation.feature_cache import encode_layer
from perception_encoder.evaluation.inputs import EncoderInputs, content_digest
from tests.evaluation.layers import ColourLayers, png

GREYS = ImageSet(
    name="greys",
    keys=tuple("abcd"),
    images=tuple(b"cut" if grey == 60 else png(np.full((8, 16, 3), grey, np.uint8)) for grey in (0, 60, 120, 180)),
)


def images(image_set: ImageSet = GREYS) -> EncoderInputs:
    return EncoderInputs.of("greys, test", image_set, lambda row: None)


def test_an_image_whose_target_fails_is_not_encoded() -> None:
    def target(row: int) -> None:
        if row == 2:
            raise InputError("c (mask)", "is empty")

    features = encode_layer(ColourLayers(), EncoderInputs.of("greys", GREYS, target), 0)
    assert features.rows.tolist() == [0, 3] and [failure.source for failure in features.failures] == ["b", "c (mask)"]


def test_the_digest_is_that_of_the_content_and_of_what_is_left_out() -> None:
    assert images().digest == content_digest(GREYS.images) != images(GREYS.select([0, 1])).digest

    def target(row: int) -> None:
        raise InputError(str(row), "is empty")

    assert EncoderInputs.of("greys", GREYS, target).digest == f"{images().digest}, without [0, 1, 2, 3]"


def test_layers_that_do_not_exist_and_features_that_are_not_finite() -> None:
    with pytest.raises(ConfigError, match="layer 3 does not exist; colours has layers 0 to 2"):
        ColourLayers().at(3)
    with pytest.raises(ModelError, match="colours, layer 2, gives NaN or infinity in 3 of 3 vectors of greys, test"):
        encode_layer(ColourLayers(), images(), 2)
