"""Tasks made of paths, and tasks of labels: a layer that shows colours among layers that do not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.datasets.class_masks import UNSCORED
from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.evaluation.classification.attentive_probe import AttentiveConfig
from perception_encoder.evaluation.feature_cache import CachedTokens, FeatureCache
from perception_encoder.evaluation.inputs import EncoderInputs
from perception_encoder.evaluation.layer_evaluator import LayerSource
from perception_encoder.evaluation.statistics.bootstrap import contributions
from perception_encoder.evaluation.statistics.scores import ItemScores, Score, estimate_difference
from perception_encoder.formats.shards import write_members
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
from tests.evaluation.classification.test_probes import directories
from tests.evaluation.colours import image_bytes, write_colours
from tests.evaluation.layers import discs, png, write_video
from tests.layer_analysis.toys import CLEAR, toy_layers

IMAGE = png(np.zeros((2, 2, 3), np.uint8))
NUMBERS = {"chair": 1, "lamp": 2}
KINDS = {"train": ["chair", "chair", "lamp", "chair", "chair"], "test": ["chair", "chair", "lamp"]}
"""Of five images four are trained on, without the third; of three the first and the last are tested on."""


def test_images_are_taken_at_even_intervals(tmp_path: Path) -> None:
    depth = png(np.full((2, 2), 5000, np.uint16))
    members = [
        (f"{n:02}.{kind}", content) for n in range(20) for kind, content in (("jpg", IMAGE), ("depth.png", depth))
    ]
    write_members(tmp_path / "room.tar", members)
    (task,) = make_tasks(["depth"], {}, tmp_path / "room.tar", TaskOptions(items=2, per_metre=5000)).values()
    assert task.train.keys == ("00", "04", "07", "11") and task.test.keys == ("12", "19")
    assert task.train.depth(1).tolist() == [[1, 1], [1, 1]]
    (task,) = make_tasks(["depth"], {}, tmp_path / "room.tar", TaskOptions(items=50)).values()
    assert len(task.train.keys) == 12


def test_classes_lost_from_training_are_not_scored(tmp_path: Path) -> None:
    for split, kinds in KINDS.items():
        for row, kind in enumerate(kinds):
            mask = png(np.array([[0, 1], [NUMBERS[kind]] * 2], np.uint8))
            for directory, content in (("images", IMAGE), ("masks", mask)):
                (tmp_path / split / directory).mkdir(parents=True, exist_ok=True)
                (tmp_path / split / directory / f"{row}.png").write_bytes(content)
    (tmp_path / "classes.txt").write_text("background\nchair\nlamp\n", encoding="utf-8")
    (task,) = make_tasks(["segmentation"], {}, tmp_path, TaskOptions(items=2)).values()
    assert task.train.keys == ("0", "1", "3", "4") and task.test.keys == ("0", "2")
    assert task.train.classes == task.test.classes == ("background", "chair")
    assert task.test.labels(1).tolist() == [[0, 1], [UNSCORED, UNSCORED]]
    (task,) = make_tasks(["segmentation"], {}, tmp_path, TaskOptions(items=3)).values()
    assert task.test.classes == ("background", "chair", "lamp")


def test_categories_lost_from_training_are_not_scored(tmp_path: Path) -> None:
    numbers = {"chair": 4, "lamp": 9}
    for split, kinds in KINDS.items():
        instances = {
            "images": [{"id": row, "file_name": f"{row}.jpg", "width": 2, "height": 2} for row in range(len(kinds))],
            "annotations": [
                {"id": 2 * row + index, "image_id": row, "category_id": numbers[item], "bbox": [0, 0, 1, 1]}
                for row, kind in enumerate(kinds)
                for index, item in enumerate(("chair", kind))
            ],
            "categories": [{"id": number, "name": kind} for kind, number in numbers.items()],
        }
        write_members(tmp_path / split / "00000.tar", [(f"{row}.jpg", IMAGE) for row in range(len(kinds))])
        (tmp_path / split / "instances.json").write_text(json.dumps(instances), encoding="utf-8")
    (task,) = make_tasks(["detection"], {}, tmp_path, TaskOptions(items=2)).values()
    assert task.train.keys == ("0.jpg", "1.jpg", "3.jpg", "4.jpg") and task.test.keys == ("0.jpg", "2.jpg")
    assert [[category["name"] for category in part.categories] for part in (task.train, task.test)] == [["chair"]] * 2
    assert task.test.instances(1).labels.tolist() == [1] and task.test.instances(0).labels.tolist() == [1, 1]
    (task,) = make_tasks(["detection"], {}, tmp_path, TaskOptions(items=3)).values()
    assert task.test.instances(2).labels.tolist() == [1, 2]


def test_images_and_frames_have_the_size_that_is_set(tmp_path: Path) -> None:
    write_video(tmp_path / "one.tar", *discs())
    asked: list[tuple[int, int] | None] = []

    class Asked(LayerSource):
        def score(self, inputs: Sequence[EncoderInputs], *_: object) -> Iterator[Score]:
            asked.extend(images.image_size for images in inputs)
            yield from ()

    depth = png(np.full((2, 2), 1000, np.uint16))
    members = [(f"{n}.{kind}", content) for n in range(5) for kind, content in (("jpg", IMAGE), ("depth.png", depth))]
    write_members(tmp_path / "room.tar", members)
    paths = {"tracking": tmp_path / "one.tar", "depth": tmp_path / "room.tar"}
    tasks = make_tasks(list(paths), paths, None, TaskOptions(image_size=(8, 12), short_side=24))
    for task in tasks.values():
        list(task.run(Asked(toy_layers())))
    assert asked == [(24, 32), (8, 12), (8, 12)]


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
        low, high = estimate_difference(*scores).interval()
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
    sweep = run_sweep(toy_layers(), tasks, FeatureCache(directory=tmp_path / "store"))
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
        curves = run_sweep(toy_layers(), tasks, FeatureCache(directory=tmp_path / store)).curves
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
    with pytest.raises(DataError, match="nothing holds no labelled images"):
        make_tasks(["retrieval"], {}, tmp_path / "nothing", TaskOptions(items=10))
    with pytest.raises(DataError, match="--data retrieval=PATH"):
        make_tasks(["retrieval"], {}, None, TaskOptions(items=10))
    with pytest.raises(DataError, match="tracking: "):
        make_tasks(["tracking"], {}, tmp_path / "one" / "train.tar", TaskOptions(items=10))
    with pytest.raises(ConfigError, match="the task 'colour' is unknown"):
        make_tasks(["colour"], {}, tmp_path, TaskOptions(items=10))
    with pytest.raises(ConfigError, match="not among the tasks"):
        make_tasks(["retrieval"], {"tracking": tmp_path}, tmp_path, TaskOptions(items=10))
