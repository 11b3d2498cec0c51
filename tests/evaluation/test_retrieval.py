"""Recall both ways, with several captions an image, and what dual softmax does to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from perception_encoder.datasets.captioned import CaptionedMedia
from perception_encoder.evaluation.embeddings import Embeddings
from perception_encoder.evaluation.retrieval import RetrievalEvaluator, best_ranks, dual_softmax, recalls
from perception_encoder.evaluation.statistics.scores import measure
from tests.clips import clip
from tests.evaluation.colours import colour_encoder, image_bytes, unit


def test_a_query_is_found_by_the_best_of_its_own() -> None:
    scores = np.array([(0.9, 0.2, 0.8, 0.1), (0.9, 0.7, 0.8, 0.1)])
    gallery_owners = np.array([0, 1, 0, 1])  # what the four items are of
    assert best_ranks(scores, np.array([0, 1]), gallery_owners).tolist() == [0, 2]
    assert best_ranks(scores, np.array([1, 0]), gallery_owners).tolist() == [2, 0]
    assert best_ranks(np.ones((4, 4)), np.arange(4), np.arange(4)).tolist() == [3] * 4  # equal vectors find nothing


def test_dual_softmax_is_the_papers_formula() -> None:
    scores = np.random.default_rng(0).standard_normal((5, 5)).astype(np.float32)
    expected = torch.from_numpy(scores) * torch.softmax(torch.from_numpy(scores), dim=0)
    np.testing.assert_allclose(dual_softmax(scores), expected.numpy(), rtol=1e-5)


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


def test_an_image_has_several_captions_and_a_broken_one_takes_its_own_along() -> None:
    colours = ("red", "green", "blue")
    media = tuple(map(image_bytes, colours))
    captions = (("a red cup", "red"), ("a green cup",), ("blue",))
    scores = list(
        RetrievalEvaluator(CaptionedMedia("toys", colours, media, captions)).run(Embeddings(colour_encoder()))
    )
    assert {(score.classes, score.value, score.n) for score in scores} == {(3, 1.0, 3)} and len(scores) == 12
    broken = CaptionedMedia("toys", colours, (b"no image", *media[1:]), captions)
    first = next(RetrievalEvaluator(broken).run(Embeddings(colour_encoder())))
    assert (first.classes, first.value, first.n) == (2, 1.0, 2)


def test_a_video_is_found_by_its_frames(tmp_path: Path) -> None:
    (tmp_path / "grey.mp4").write_bytes(clip(12))
    media = (tmp_path / "grey.mp4", image_bytes("red"), image_bytes("blue"))
    data = CaptionedMedia("toys", ("grey.mp4", "red", "blue"), media, (("white",), ("red",), ("blue",)))
    encoder = colour_encoder()
    first = next(RetrievalEvaluator(data, frames=4).run(Embeddings(encoder)))
    assert (encoder.towers.image_count, first.failures, first.value) == (4 + 1 + 1, (), 1.0)
