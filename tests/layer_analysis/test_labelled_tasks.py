"""Tasks of labels: hand-computed average precision, and a layer that shows colours among layers that do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.evaluation.classification.attentive_probe import AttentiveConfig
from perception_encoder.evaluation.feature_cache import CachedTokens, FeatureCache
from perception_encoder.evaluation.statistics.bootstrap import contributions
from perception_encoder.evaluation.statistics.scores import ItemScores, difference
from perception_encoder.layer_analysis.sweep import run_sweep
from perception_encoder.layer_analysis.tasks import (
    ClassificationTask,
    LabelledConfig,
    RetrievalTask,
    TaskOptions,
    make_tasks,
    read_label_splits,
    retrieval_precision,
)
from perception_encoder.vectors import unit_rows
from tests.evaluation.classification.test_splits import directories
from tests.evaluation.colours import image_bytes, write_colours
from tests.layer_analysis.toys import CLEAR, ToyEncoder

LABELS = ["red", "green", "blue"] * 8
FIT = FitConfig(epochs=8, batch=8)
FAST = LabelledConfig(attentive=AttentiveConfig(fit=FIT, learning_rates=(3e-2,)))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        write_colours(tmp_path / f"{split}.tar", "toys", LABELS, coarse=True, broken=(4,) if split == "test" else ())
    return tmp_path


def test_equal_vectors_retrieve_nothing_early() -> None:
    (precision, first), _ = retrieval_precision(np.ones((6, 1)), np.array([0, 0, 1, 1, 1, 2]))
    assert not np.nansum(first) and precision[0] == pytest.approx(1 / 5)


def test_average_precision_without_an_image_is_that_of_the_others() -> None:
    rng = np.random.default_rng(0)
    vectors, labels = unit_rows(rng.normal(size=(15, 4)).round(1)), rng.integers(0, 5, 15)
    vectors[3] = vectors[4]
    _, without = retrieval_precision(vectors, labels)
    for gone in range(15):
        rest = np.delete(np.arange(15), gone)
        for values, expected in zip(without, retrieval_precision(vectors[rest], labels[rest])[0], strict=True):
            np.testing.assert_allclose(values[rest, gone], expected)
            assert np.isnan(values[gone, gone])


def test_layers_of_the_same_worth_are_seldom_told_apart(tmp_path: Path) -> None:
    """An image that all others retrieve, or none, counts for more than itself."""
    told = 0
    for seed in range(60):
        rng, labels = np.random.default_rng(seed), np.repeat(np.arange(20), 4)
        centres = rng.normal(size=(20, 16))
        scores = []
        for _ in range(2):
            vectors = unit_rows(centres[labels] + 1.2 * rng.normal(size=(80, 16)))
            whole, without = retrieval_precision(vectors, labels)
            values = contributions(float(whole[0].mean()), np.nanmean(without[0], axis=0))
            scores.append(ItemScores.of("mAP", values, [str(n) for n in range(80)]))
        low, high = difference(*scores).interval
        told += not low <= 0 <= high
    assert told <= 5  # drawing questions alone: 16


def test_average_precision_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    vectors, labels = unit_rows(rng.normal(size=(20, 4))), rng.integers(0, 3, 20)
    (precision, _), _ = retrieval_precision(vectors, labels)
    for row in range(20):
        others = np.delete(np.arange(20), row)
        expected = metrics.average_precision_score(labels[others] == labels[row], vectors[others] @ vectors[row])
        assert precision[row] == pytest.approx(expected)


def test_the_layer_of_colours_classifies_and_retrieves_best(photos: Path, tmp_path: Path) -> None:
    splits = read_label_splits(photos, 24)
    tasks = {"classification": ClassificationTask(splits, FAST), "retrieval": RetrievalTask(splits.test)}
    sweep = run_sweep(ToyEncoder(), tasks, FeatureCache(directory=tmp_path / "store"))
    curves = {curve.metric: curve for curve in sweep.curves}
    assert list(curves) == [
        "mean class accuracy, attentive probe",
        "mean class accuracy, linear probe",
        "mean class accuracy, k-NN",
        "mean average precision",
        "R@1",
    ]
    for curve in curves.values():
        assert curve.best == CLEAR and curve.scores[CLEAR].value > 0.95 and curve.scores[CLEAR].n == 23, curve.metric
        assert curve.scores[0].value < 0.9
    assert curves["mean class accuracy, attentive probe"].pool == "tokens" and curves["R@1"].pool == "mean"
    assert [failure.source for failure in sweep.failures] == ["toys-4"] and sweep.images == 60


def test_the_lengths_of_vectors_change_no_cosine(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """k-NN and retrieval compare directions, whose features differ in length from image to image; in float32."""
    splits = read_label_splits(photos, 24)
    nearest = ClassificationTask(splits, replace(FAST, methods=("k-NN",)))
    tasks = {"classification": nearest, "retrieval": RetrievalTask(splits.test)}
    mean = CachedTokens.mean

    def lengthened(tokens: CachedTokens, *rows: object) -> np.ndarray:
        vectors = mean(tokens, *rows)  # type: ignore[arg-type]
        return vectors * np.float32(2.0) ** (np.arange(len(vectors)) % 7 - 3)[:, None]  # exact

    def scores(store: str) -> list[float]:
        curves = run_sweep(ToyEncoder(), tasks, FeatureCache(directory=tmp_path / store)).curves
        return [score.value for curve in curves for score in curve.scores.values()]

    before = scores("before")
    monkeypatch.setattr(CachedTokens, "mean", lengthened)
    assert scores("after") == pytest.approx(before, abs=1e-6) and min(before) < 0.9


def test_val_is_evaluated_if_test_has_no_labels(tmp_path: Path) -> None:
    """As in ImageNet, whose `test` is a directory of images without classes."""
    directories(tmp_path, "train", ["red", "green"] * 10)
    directories(tmp_path, "val", ["red", "green"] * 3, 50)
    for _ in range(2):
        options = TaskOptions(items=4 + len(list(tmp_path.iterdir())))
        (task,) = make_tasks(["classification"], {}, tmp_path, options).values()
        assert isinstance(task, ClassificationTask) and task.splits.test.keys[0].startswith("green")
        assert len(task.splits.train.keys) + len(task.splits.val.keys) <= 20
        (tmp_path / "test").mkdir(exist_ok=True)
        (tmp_path / "test" / "unlabelled.png").write_bytes(image_bytes("red", 1))
    directories(tmp_path, "test", ["red", "green"] * 2, 90)
    (task,) = make_tasks(["retrieval"], {}, tmp_path, TaskOptions(items=9)).values()
    assert isinstance(task, RetrievalTask) and len(task.labelled.keys) == 4


def test_as_many_of_each_class_and_always_the_same(photos: Path) -> None:
    splits = read_label_splits(photos, 9)
    assert [len(part.labels) for part in (splits.train, splits.val, splits.test)] == [18, 6, 9]
    assert {splits.test.labels.count(label) for label in splits.classes} == {3}
    assert read_label_splits(photos, 9).test.keys == splits.test.keys


def test_data_that_lack_what_a_task_needs(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_colours(tmp_path / "one" / f"{split}.tar", "toys", ["red"] * 12)
    with pytest.raises(DataError, match="only the class 'red'"):
        read_label_splits(tmp_path / "one")
    with pytest.raises(DataError, match="one image of each class"):
        RetrievalTask(LabelledImages("few", ("a", "b"), (b"", b""), ("x", "y")))
    with pytest.raises(DataError, match="a single class"):
        RetrievalTask(LabelledImages("few", ("a", "b"), (b"", b""), ("x", "x")))
    with pytest.raises(DataError, match=r"retrieval: .*/nothing holds no labelled images"):
        make_tasks(["retrieval"], {}, tmp_path / "nothing", TaskOptions(items=10))
    with pytest.raises(DataError, match="retrieval has no data; give --data retrieval=PATH"):
        make_tasks(["retrieval"], {}, None, TaskOptions(items=10))
    with pytest.raises(DataError, match="tracking: "):
        make_tasks(["tracking"], {}, tmp_path / "one" / "train.tar", TaskOptions(items=10))
    with pytest.raises(ConfigError, match="the task 'colour' is unknown; the tasks are classification"):
        make_tasks(["colour"], {}, tmp_path, TaskOptions(items=10))
    with pytest.raises(ConfigError, match="not among the tasks"):
        make_tasks(["retrieval"], {"tracking": tmp_path}, tmp_path, TaskOptions(items=10))
