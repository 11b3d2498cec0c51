"""Scores on whole images: perfect predictions score perfectly, and bad images are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from perception_encoder.dense_prediction.dense_model import Backbone, DenseModel, make_head
from perception_encoder.dense_prediction.detection.detections import Detected
from perception_encoder.dense_training.batches import DenseSamples
from perception_encoder.dense_training.run import describe_head, open_tower, read_samples
from perception_encoder.dense_training.validation import DenseValidation, make_validation
from perception_encoder.errors import DataError, MediaDecodeError
from tests.dense_training.datasets import HEADS, small_config


def make(task: str, path: Path) -> DenseValidation:
    config = small_config(task)
    _, held_out, classes = read_samples(config, path)
    tower, layer = open_tower(config)
    backbone = Backbone(tower, layer, frozen=True)
    head = make_head(describe_head(config, tower, layer, held_out, classes), backbone.width)
    return make_validation(DenseModel(backbone, head), held_out, 3, 32)


@pytest.mark.parametrize("task", HEADS)
def test_a_random_head_has_finite_scores(task: str, datasets: dict[str, Path]) -> None:
    validation = make(task, datasets[task])
    assert len(validation.rows) == 3
    scores = validation.validate("")
    assert set(scores) == set(validation.higher_is_better) and all(np.isfinite(list(scores.values())))
    assert validation.validate("") == pytest.approx(scores)  # nothing is left of the last time


@pytest.mark.parametrize("task", HEADS)
def test_without_a_usable_image_it_is_an_error(
    task: str, datasets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = make(task, datasets[task])

    def fail(samples: DenseSamples, index: int) -> None:
        raise MediaDecodeError(str(index), "is damaged")

    monkeypatch.setattr(type(validation.samples), "read", fail)
    with pytest.raises(DataError, match="no validation image can be used; the log says why"):
        validation.validate("")


@pytest.mark.parametrize(
    ("task", "truth", "expected"),
    [("depth", "depth", {"rmse": 0, "abs_rel": 0, "delta1": 1}), ("segmenter", "labels", {"miou": 1, "pixels": 1})],
)
def test_perfect_maps(
    task: str, truth: str, expected: dict[str, float], datasets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = make(task, datasets[task])
    rows, read = iter(validation.rows), getattr(validation.samples.dataset, truth)
    monkeypatch.setattr(
        validation.model.head, "predict", lambda features, size: torch.from_numpy(read(next(rows)))[None]
    )
    assert validation.validate("") == pytest.approx(expected)
    assert validation.higher_is_better == {name: score > 0.5 for name, score in expected.items()}


def test_perfect_objects(datasets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    validation = make("detector", datasets["detector"])
    rows = iter(validation.rows)

    def detect(features, sizes, valid_sizes):
        instances = validation.samples.dataset.instances(next(rows))
        return [
            Detected(
                instances.boxes, instances.labels, np.full(len(instances.labels), 0.9, np.float32), instances.masks
            )
        ]

    monkeypatch.setattr(validation.model.head, "detect", detect)
    scores = validation.validate("")
    assert scores == pytest.approx({"box_ap": 1, "box_ap50": 1, "mask_ap": 1, "mask_ap50": 1})
    assert all(validation.higher_is_better.values())
