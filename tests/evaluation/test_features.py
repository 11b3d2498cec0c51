"""Pictures are encoded once, in order; what cannot be decoded is reported and not replaced."""

from __future__ import annotations

import numpy as np
import pytest

from perception_encoder.data.labelled import LabelledPictures
from perception_encoder.errors import DataError, MediaDecodeError, ModelError
from perception_encoder.evaluation import features as module
from perception_encoder.evaluation.features import encode_pictures, relabel
from tests.evaluation.colours import ColourEncoder, picture

COLOURS = ("red", "green", "blue", "red", "white")


def task(broken: tuple[int, ...] = ()) -> LabelledPictures:
    pictures = tuple(b"no picture" if i in broken else picture(colour) for i, colour in enumerate(COLOURS))
    return LabelledPictures("colours", tuple("abcde"), pictures, COLOURS)


def test_vectors_are_in_the_pictures_order(monkeypatch) -> None:
    whole = encode_pictures(ColourEncoder(), task())
    monkeypatch.setattr(module, "CHUNK", 2)
    chunked = encode_pictures(ColourEncoder(), task())
    np.testing.assert_array_equal(whole.vectors, chunked.vectors)
    assert whole.vectors.argmax(axis=1).tolist()[:4] == [0, 1, 2, 0]
    assert whole.labels == chunked.labels == COLOURS
    assert whole.targets(["blue", "green", "red", "white"]).tolist() == [2, 1, 0, 2, 3]
    assert whole.failures == ()


def test_an_undecodable_picture_is_reported_and_not_replaced(monkeypatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    encoder = ColourEncoder()
    found = encode_pictures(encoder, task(broken=(1, 2, 3)))
    assert [(type(failure), failure.source) for failure in found.failures] == [(MediaDecodeError, key) for key in "bcd"]
    assert (found.keys, found.labels) == (("a", "e"), ("red", "white"))
    assert len(found.vectors) == encoder.pictures == 2


def test_a_task_of_undecodable_pictures_is_a_data_error() -> None:
    with pytest.raises(DataError, match="colours: no picture can be decoded; the first: a: "):
        encode_pictures(ColourEncoder(), task(broken=(0, 1, 2, 3, 4)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_a_model_error(value: float) -> None:
    class Broken(ColourEncoder):
        def encode_images(self, images):
            vectors = super().encode_images(images)
            vectors[1, 2] = value
            return vectors

    with pytest.raises(ModelError, match="colours gives NaN or infinity in 1 of 5 vectors of colours"):
        encode_pictures(Broken(), task())


def test_the_same_pictures_take_other_labels() -> None:
    found = encode_pictures(ColourEncoder(), task(broken=(1,)))
    coarse = LabelledPictures("colours/coarse", tuple("abcde"), task().pictures, ("warm", "?", "cold", "warm", "none"))
    assert relabel(found, coarse).labels == ("warm", "cold", "warm", "none")
    assert relabel(found, coarse).vectors is found.vectors
