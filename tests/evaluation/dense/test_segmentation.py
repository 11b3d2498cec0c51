"""Segmentation: overlaps by hand and by scikit-learn, perfect features, noise, and what cannot be measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.datasets.class_masks import UNSCORED, ClassMasks, read_class_splits
from perception_encoder.datasets.image_set import keep_trained
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.dense_prediction.segmentation import SegmentationConfig
from perception_encoder.errors import ConfigError, DataError, InputError, ModelError
from perception_encoder.evaluation.dense import segmentation as evaluator
from perception_encoder.evaluation.dense.segmentation import (
    SegmentationEvaluator,
    SegmentationProtocol,
    overlap_scores,
    overlaps,
    score_segmentation,
)
from perception_encoder.evaluation.layer_features import OneLayer
from perception_encoder.evaluation.statistics.scores import by_metric, difference, measure, measure_all
from perception_encoder.formats.shards import write_members
from tests.evaluation.layers import ColourLayers, png

PROTOCOL = SegmentationProtocol(head=SegmentationConfig(fit=FitConfig(epochs=30, batch=8, lr=0.05)))


def pictures(count: int, seed: int) -> list[np.ndarray]:
    """Labels (24, 32) of a floor, a rectangle of class 1 and one of class 2, along the grid of patches of 4."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        labels = np.zeros((24, 32), np.int16)
        for number in (1, 2):
            top, left = 4 * rng.integers(0, 4), 4 * rng.integers(0, 5)
            labels[top : top + 8, left : left + 12] = number
        made.append(labels)
    return made


def shares(labels: np.ndarray) -> np.ndarray:
    return np.eye(3)[labels].reshape(6, 4, 8, 4, 3).mean(axis=(1, 3))


def test_overlaps_by_hand() -> None:
    truth, guess = np.array([[0, 0, 1], [1, -1, 2]]), np.array([[0, 1, 1], [2, 2, 2]])
    inside, either = overlaps(guess, truth, 4)
    assert inside.tolist() == [1, 1, 1, 0] and either.tolist() == [2, 3, 2, 0]
    miou, pixels = (measure(each) for each in overlap_scores(inside[None], either[None], ["a"]))
    assert miou.value == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)  # class 3 is nowhere
    assert pixels.value == pytest.approx(3 / 5)


def test_a_class_is_measured_over_all_pictures_together() -> None:
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
    train, test = pictures(24, 0), pictures(8, 1)
    keys = [f"p{number}" for number in range(8)]

    def score(learned: np.ndarray, asked: np.ndarray) -> tuple:
        return score_segmentation(learned, train.__getitem__, asked, test.__getitem__, keys, 3, PROTOCOL)

    perfect = score(*(np.stack([shares(labels) for labels in some]) for some in (train, test)))
    assert measure_all(perfect)[0].value > 0.8  # half a patch of bilinear border apart
    rng = np.random.default_rng(0)
    noise = score(rng.normal(size=(24, 6, 8, 3)), rng.normal(size=(8, 6, 8, 3)))
    assert measure_all(noise)[0].value < 0.35 and [each.seed for each in noise[::2]] == [0, 1, 2]
    assert len({each.values for each in perfect}) == 6  # every seed fits another head
    assert difference(*(by_metric(each)["mIoU"] for each in (perfect, noise))).interval[0] > 0.2


def write_scenes(place: Path, split: str, count: int, seed: int, cut: int | None = None) -> None:
    colours = np.array([(90, 95, 90), (220, 40, 30), (30, 40, 220)], np.uint8)
    members = []
    for index, labels in enumerate(pictures(count, seed)):
        things = [{"id": 7, "kind": "chair"}, {"id": 3, "kind": "lamp"}]
        mask = np.array([0, 7, 3], np.uint8)[labels]
        picture = b"\x89PNG cut" if index == cut else png(colours[labels])
        about = {"source": "scenes", "label": "x", "objects": things}
        parts = (("jpg", picture), ("mask.png", png(mask)), ("json", json.dumps(about).encode()))
        members += [(f"{split}-{index}.{extension}", content) for extension, content in parts]
    write_members(place / split / "00000.tar", members)


def test_scenes_are_measured_and_a_broken_picture_reported(tmp_path: Path) -> None:
    write_scenes(tmp_path, "train", 16, 0)
    write_scenes(tmp_path, "test", 6, 1, cut=2)
    train, test = read_class_splits(tmp_path)
    assert train.classes == ("background", "chair", "lamp")
    assert (test.labels(0) == pictures(6, 1)[0]).all()
    encoder = ColourLayers(4, (24, 32))
    (found,) = SegmentationEvaluator(train, test, PROTOCOL).run(OneLayer(encoder, 0))
    failures = found.failures
    assert [failure.source for failure in failures] == ["test-2"] and found.metrics[0].n == 5
    assert found.metrics[0].value > 0.75 and found.classes == 3
    wide = SegmentationProtocol(head=SegmentationConfig(kernel=3, fit=PROTOCOL.head.fit))
    assert (
        SegmentationEvaluator(train, test, wide).run(OneLayer(encoder, 0))[0].metrics[0].value
        > found.metrics[0].value - 0.1
    )
    with pytest.raises(ModelError, match="colours, layer 2"):
        SegmentationEvaluator(train, test, PROTOCOL).run(OneLayer(encoder, 2))


def drawn(name: str, shown: list[np.ndarray], known: list[np.ndarray] | None = None) -> ClassMasks:
    """Pictures of labels, and masks that show them, or others."""
    colours = np.array([(90, 95, 90), (220, 40, 30), (30, 40, 220)], np.uint8)
    return ClassMasks(
        name=name,
        keys=tuple(f"{name}{row}" for row in range(len(shown))),
        images=tuple(png(colours[labels]) for labels in shown),
        masks=tuple(png(labels.astype(np.uint8)) for labels in known or shown),
        classes=("background", "chair", "lamp"),
        numbers=({0: 0, 1: 1, 2: 2, 255: UNSCORED},) * len(shown),
    )


def test_classes_that_are_not_trained_on_are_not_scored() -> None:
    learned, asked = pictures(16, 0), pictures(6, 1)
    train = drawn("a", learned, [np.where(labels == 2, 255, labels) for labels in learned])
    kept, test = keep_trained(train, drawn("b", asked))
    assert kept.classes == test.classes == ("background", "chair")
    assert (test.labels(0) == np.where(asked[0] == 2, UNSCORED, asked[0])).all()
    (found,) = SegmentationEvaluator(train, drawn("b", asked), PROTOCOL).run(OneLayer(ColourLayers(4, (24, 32)), 0))
    failures = found.failures
    assert found.classes == 2 and found.metrics[0].value > 0.75 and not failures
    only = drawn("b", [np.where(labels == 1, 0, labels) for labels in asked])
    only = replace(only, numbers=({0: 0, 2: 2},) * 6)
    with pytest.raises(DataError, match="b: no object is of a class that the training images show"):
        keep_trained(train, only)
    assert keep_trained(drawn("a", learned), only)[1] is only


def test_pictures_whose_masks_are_empty_are_reported_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    some, void = pictures(4, 0), np.full((24, 32), 255, np.uint8)
    train, test = drawn("a", some, [*some[:3], void]), drawn("b", some, [void, *some[1:]])
    (found,) = SegmentationEvaluator(train, test, PROTOCOL).run(OneLayer(ColourLayers(4, (24, 32)), 0))
    failures = found.failures
    assert [failure.source for failure in failures] == ["a3", "b0"]
    assert found.metrics[0].n == 3 and found.settings["train"] == "3"
    monkeypatch.setattr(evaluator, "fit_segmentation", lambda *_: pytest.fail("a head was fitted"))
    for sets, name in (((drawn("a", some, [void] * 4), test), "a"), ((train, drawn("b", some, [void] * 4)), "b")):
        with pytest.raises(
            DataError, match=f"segmentation: no image can be used; the first: {name}0: its mask is empty"
        ):
            SegmentationEvaluator(*sets, PROTOCOL).run(OneLayer(ColourLayers(4, (24, 32)), 0))
    maps, mixed = np.zeros((1, 2, 2, 3)), np.array([[0, 1]])
    with pytest.raises(InputError, match="b: its mask is empty"):
        score_segmentation(maps, lambda _: mixed, maps, lambda _: -mixed - 1, ["b"], 2, PROTOCOL)


def test_scenes_whose_things_are_not_trained_on_are_refused(tmp_path: Path) -> None:
    write_scenes(tmp_path, "train", 2, 0)
    member = {"objects": [{"id": 1, "kind": "vase"}]}
    mask = np.array([[0, 1]], np.uint8)
    parts = (
        ("jpg", png(np.zeros((1, 2, 3), np.uint8))),
        ("mask.png", png(mask)),
        ("json", json.dumps(member).encode()),
    )
    (tmp_path / "test").mkdir()
    write_members(tmp_path / "test" / "00000.tar", [(f"a.{extension}", content) for extension, content in parts])
    with pytest.raises(DataError, match="no object is of a class that the training images show"):
        read_class_splits(tmp_path)


def test_ade_folders(tmp_path: Path) -> None:
    for split, value in (("training", 1), ("validation", 0)):
        for kind in ("images", "annotations"):
            (tmp_path / kind / split).mkdir(parents=True)
        (tmp_path / "images" / split / "a.jpg").write_bytes(png(np.zeros((2, 2, 3), np.uint8)))
        (tmp_path / "annotations" / split / "a.png").write_bytes(png(np.array([[value, 2]], np.uint8)))
    train, test = read_class_splits(tmp_path)
    assert train.labels(0).tolist() == [[0, 1]] and test.labels(0).tolist() == [[-1, 1]]
    assert len(train.classes) == 150
    (tmp_path / "images" / "training" / "b.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="b of training lacks its image or its mask"):
        read_class_splits(tmp_path)


def test_what_cannot_be_measured_is_named(tmp_path: Path) -> None:
    ones, maps = np.ones((4, 4), np.int16), np.zeros((1, 2, 2, 3))
    with pytest.raises(DataError, match="show 1 class"):
        score_segmentation(maps, lambda _: ones, maps, lambda _: ones, ["a"], 3, PROTOCOL)
    with pytest.raises(ModelError, match="c first"):
        score_segmentation(maps, lambda _: ones, maps * np.nan, lambda _: ones, ["c"], 2, PROTOCOL)
    with pytest.raises(ConfigError, match="kernel is 2"):
        SegmentationConfig(kernel=2)
    with pytest.raises(DataError, match=r"no annotations/ and no train/\*\.tar"):
        read_class_splits(tmp_path)
