"""Recall both ways, with several captions an image, and what dual softmax does to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from perception_encoder.datasets.captioned import CaptionedMedia
from perception_encoder.errors import DataError, ModelError
from perception_encoder.evaluation.results import evaluate
from perception_encoder.evaluation.retrieval import RetrievalEvaluator, best_ranks, dual_softmax, recalls
from perception_encoder.evaluation.statistics.scores import measure
from tests.clips import clip
from tests.evaluation.colours import ColourEncoder, image_bytes, unit


def found_first(scores: np.ndarray) -> np.ndarray:
    """Whether query i ranks item i first."""
    items = np.arange(len(scores))
    return best_ranks(scores, items, items) == 0


def test_found_first() -> None:
    scores = np.array([(0.9, 0.1, 0.0), (0.8, 0.7, 0.1), (0.0, 0.2, 0.3)])
    assert found_first(scores).tolist() == [True, False, True]
    assert found_first(scores.T).tolist() == [True, True, True]


def test_vectors_that_are_all_the_same_find_nothing() -> None:
    assert not found_first(np.ones((4, 4))).any()


def test_a_query_is_found_by_the_best_of_its_own() -> None:
    scores = np.array([(0.9, 0.2, 0.8, 0.1), (0.9, 0.7, 0.8, 0.1)])
    gallery_owners = np.array([0, 1, 0, 1])  # what the four items are of
    assert best_ranks(scores, np.array([0, 1]), gallery_owners).tolist() == [0, 2]
    assert best_ranks(scores, np.array([1, 0]), gallery_owners).tolist() == [2, 0]


def test_dual_softmax_is_the_papers_formula() -> None:
    scores = np.random.default_rng(0).standard_normal((5, 5)).astype(np.float32)
    expected = torch.from_numpy(scores) * torch.softmax(torch.from_numpy(scores), dim=0)
    np.testing.assert_allclose(dual_softmax(scores), expected.numpy(), rtol=1e-5)


def test_dual_softmax_holds_back_an_item_that_every_query_likes() -> None:
    scores = np.array([(9.0, 1.0, 1.0), (8.0, 7.5, 1.0), (8.0, 1.0, 7.5)])
    assert found_first(scores).tolist() == [True, False, False]
    assert found_first(dual_softmax(scores)).tolist() == [True, True, True]


def test_recalls_are_those_of_sorting_everything() -> None:
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((40, 6)))
    owners = np.sort(np.concatenate([np.arange(40), rng.integers(0, 40, 60)]))  # one to several captions each
    texts = unit(vectors[owners] + 0.8 * rng.standard_normal((100, 6)))
    names = [str(number) for number in range(40)]
    scores, ways = texts @ vectors.T, ("text to image", "image to text")
    outcome = {scores.metric: measure(scores) for scores in recalls(scores, owners, ways, names)}
    for top in (1, 5, 10):
        nearest = np.argsort(-scores, axis=1)[:, :top]
        expected = np.mean([owners[row] in places for row, places in enumerate(nearest)])
        assert outcome[f"text to image R@{top}"].value == pytest.approx(expected)
        nearest = np.argsort(-scores.T, axis=1)[:, :top]
        expected = np.mean([(owners[places] == row).any() for row, places in enumerate(nearest)])
        assert outcome[f"image to text R@{top}"].value == pytest.approx(expected)
    assert outcome["text to image, dual softmax R@1"].value != outcome["text to image R@1"].value
    assert {metric.n for metric in outcome.values()} == {40}  # captions are drawn with their images
    assert len(outcome) == 12


COLOURS = ("red", "green", "blue")


def captioned(**changes) -> CaptionedMedia:
    fields = {
        "name": "toys",
        "keys": COLOURS,
        "media": tuple(image_bytes(colour) for colour in COLOURS),
        "captions": ("a red cup", "red", "a green cup", "blue"),
        "owners": (0, 0, 1, 2),
    }
    return CaptionedMedia(**{**fields, **changes})


def test_images_are_measured_under_each_transform() -> None:
    models = {"squash": ColourEncoder(), "crop": ColourEncoder()}
    measurements = evaluate([RetrievalEvaluator(captioned())], models)
    assert [(m.transform, m.classes, len(m.metrics)) for m in measurements] == [("squash", 3, 12), ("crop", 3, 12)]
    assert {metric.value for m in measurements for metric in m.metrics} == {1.0}
    assert measurements[0].failures == ()


def test_a_broken_image_takes_its_captions_along() -> None:
    data = captioned(media=(b"no image", image_bytes("green"), image_bytes("blue")))
    (measurement,) = RetrievalEvaluator(data).run(ColourEncoder())
    assert [failure.source for failure in measurement.failures] == ["red"]
    assert (measurement.classes, measurement.metrics[0].value, measurement.metrics[0].n) == (2, 1.0, 2)
    with pytest.raises(DataError, match="toys has only one item that can be decoded"):
        RetrievalEvaluator(captioned(media=(b"?", b"?", image_bytes("blue")))).run(ColourEncoder())


def test_a_video_is_found_by_its_frames(tmp_path: Path) -> None:
    (tmp_path / "grey.mp4").write_bytes(clip(12))
    keys = ("grey.mp4", "red", "blue")
    data = captioned(
        keys=keys,
        media=(tmp_path / "grey.mp4", image_bytes("red"), image_bytes("blue")),
        captions=("white", "red", "blue"),
        owners=(0, 1, 2),
    )
    encoder = ColourEncoder()
    (measurement,) = RetrievalEvaluator(data, frames=4).run(encoder)
    assert (encoder.image_count, measurement.failures) == (4 + 1 + 1, ())
    assert measurement.metrics[0].value == 1.0


def test_vectors_that_are_not_finite_are_an_error() -> None:
    class Broken(ColourEncoder):
        def encode_texts(self, texts):
            return super().encode_texts(texts) * np.nan

    with pytest.raises(ModelError, match="colours gives NaN or infinity in 4 of 4 vectors of the captions"):
        RetrievalEvaluator(captioned()).run(Broken())
