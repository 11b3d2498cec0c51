"""Segmentation: overlaps by hand and by scikit-learn, perfect features, noise, and what cannot be measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.datasets.class_masks import UNSCORED, read_class_splits
from perception_encoder.datasets.labelled import keep_trained
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.dense_prediction.segmentation import SegmentationConfig
from perception_encoder.errors import DataError
from perception_encoder.evaluation.dense import segmentation as evaluator
from perception_encoder.evaluation.dense.segmentation import (
    SegmentationEvaluator,
    overlap_scores,
    overlaps,
)
from perception_encoder.evaluation.layer_evaluator import LayerSource
from perception_encoder.evaluation.statistics.scores import Score, estimate_difference, measure
from tests.datasets.drawn import drawn_masks, label_maps, write_masks
from tests.evaluation.layers import Given, cached, colour_layers, colour_source

HEAD = SegmentationConfig(fit=FitConfig(epochs=30, batch=8, lr=0.05))


def shares(labels: np.ndarray) -> np.ndarray:
    return np.eye(3)[labels].reshape(6, 4, 8, 4, 3).mean(axis=(1, 3))


def test_a_class_is_measured_over_all_images_together() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 4, (2, 5, 9, 7))
    each = [overlaps(g, t, 4) for g, t in zip(guess, truth, strict=True)]
    inside, either = (np.array([one[place] for one in each]) for place in (0, 1))
    miou, pixels = (measure(scores) for scores in overlap_scores(inside, either, list("abcde")))
    assert miou.value == pytest.approx(metrics.jaccard_score(truth.ravel(), guess.ravel(), average="macro"))
    assert pixels.value == pytest.approx((truth == guess).mean())
    assert miou.interval[0] < miou.value < miou.interval[1]


def test_perfect_features_are_segmented_perfectly_and_noise_is_not() -> None:
    train, test = label_maps(24, 0), label_maps(8, 1)

    def score(learned: np.ndarray, asked: np.ndarray) -> Score:
        task = SegmentationEvaluator(drawn_masks("a", train), drawn_masks("b", test), HEAD)
        return next(task.run(Given(cached(learned), cached(asked))))

    perfect = score(*(np.stack([shares(labels) for labels in some]) for some in (train, test)))
    assert perfect.value > 0.8  # half a patch of bilinear border apart
    rng = np.random.default_rng(0)
    noise = score(rng.normal(size=(24, 6, 8, 3)), rng.normal(size=(8, 6, 8, 3)))
    assert noise.value < 0.35 and [item.seed for item in noise.items] == [0, 1, 2]
    assert len({item.values for item in perfect.items}) == 3  # every seed fits another head
    assert estimate_difference(perfect.items, noise.items).interval()[0] > 0.2


def test_directories_are_measured(tmp_path: Path) -> None:
    write_masks(tmp_path, "train", 16, 0)
    write_masks(tmp_path, "test", 6, 1)
    train, test = read_class_splits(tmp_path)
    assert train.classes == ("background", "chair", "lamp")
    assert (test.labels(0) == label_maps(6, 1)[0]).all()
    encoder = colour_layers(4, (24, 32))
    first = next(SegmentationEvaluator(train, test, HEAD).run(LayerSource(encoder.at(0))))
    assert first.value > 0.75 and first.classes == 3
    wide = SegmentationConfig(kernel=3, fit=HEAD.fit)
    assert next(SegmentationEvaluator(train, test, wide).run(LayerSource(encoder.at(0)))).value > first.value - 0.1


def test_classes_that_are_not_trained_on_are_not_scored() -> None:
    learned, asked = label_maps(16, 0), label_maps(6, 1)
    train = drawn_masks("a", learned, [np.where(labels == 2, 255, labels) for labels in learned])
    kept, test = keep_trained(train, drawn_masks("b", asked))
    assert kept.classes == test.classes == ("background", "chair")
    assert (test.labels(0) == np.where(asked[0] == 2, UNSCORED, asked[0])).all()
    result = list(SegmentationEvaluator(train, drawn_masks("b", asked), HEAD).run(colour_source()))
    assert result[0].classes == 2 and result[0].value > 0.75 and not result[0].failures
    only = drawn_masks("b", [np.where(labels == 1, 0, labels) for labels in asked])
    only = replace(only, numbers={0: 0, 2: 2})
    with pytest.raises(DataError, match="b: no object has a class"):
        keep_trained(train, only)
    assert keep_trained(drawn_masks("a", learned), only)[1] is only


def test_an_image_of_the_first_class_alone_is_scored() -> None:
    learned, asked = label_maps(16, 0), label_maps(3, 1)
    test = drawn_masks("b", asked, [np.zeros((24, 32), np.uint8), *asked[1:]])
    result = list(SegmentationEvaluator(drawn_masks("a", learned), test, HEAD).run(colour_source()))
    assert result[0].n == 3 and not result[0].failures


def test_images_whose_masks_are_empty_are_reported_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    some, void = label_maps(4, 0), np.full((24, 32), 255, np.uint8)
    train, test = drawn_masks("a", some, [*some[:3], void]), drawn_masks("b", some, [void, *some[1:]])
    result = list(SegmentationEvaluator(train, test, HEAD).run(colour_source()))
    assert [failure.source for failure in result[0].failures] == ["a3", "b0"]
    assert result[0].n == 3 and result[0].settings["train"] == "3"
    monkeypatch.setattr(evaluator, "fit_segmentation", lambda *_: pytest.fail("a head was fitted"))
    for sets, name in (
        ((drawn_masks("a", some, [void] * 4), test), "a"),
        ((train, drawn_masks("b", some, [void] * 4)), "b"),
    ):
        with pytest.raises(
            DataError, match=f"segmentation: no image can be used; the first: {name}0: its mask is empty"
        ):
            list(SegmentationEvaluator(*sets, HEAD).run(colour_source()))
