"""Evaluators of layers: their inputs, what is refused before features are extracted, and sets read one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perception_encoder.datasets.image_set import ImageSet
from perception_encoder.dense_prediction.depth import DepthConfig
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.dense.depth import DepthEvaluator, DepthProtocol
from perception_encoder.evaluation.feature_cache import encode_layer
from perception_encoder.evaluation.inputs import EncoderInputs, content_digest
from tests.datasets.drawn import pairs, rooms
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


def test_the_test_set_is_not_encoded_without_training_images() -> None:
    encoder, depths = ColourLayers(4, (24, 32)), rooms(2, 0)
    encoded: list[int] = []
    encode = encoder.encode_layers
    encoder.encode_layers = lambda images, *rest: encoded.append(len(images)) or encode(images, *rest)
    bad = replace(pairs("a", depths), images=(b"cut", b"cut"))
    protocol = DepthProtocol(head=DepthConfig(channels=4, fit=FitConfig(epochs=1)))
    with pytest.raises(DataError, match="depth: no image can be used; the first: a0"):
        list(DepthEvaluator(bad, pairs("b", depths), protocol).run(encoder.at(0)))
    assert encoded == []
    cut = replace(pairs("b", depths), images=(pairs("b", depths).images[0], b"cut"))
    list(DepthEvaluator(pairs("a", depths), cut, protocol).run(encoder.at(0)))
    assert encoded == [2, 1]
