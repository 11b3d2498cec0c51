"""Scores on whole images: perfect predictions score perfectly, and bad images are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.dense_prediction.dense_model import Backbone, DenseModel, make_head
from perception_encoder.dense_prediction.detection.detections import Detected
from perception_encoder.dense_training.batches import DenseSamples
from perception_encoder.dense_training.kinds import KINDS
from perception_encoder.dense_training.run import describe_head, open_tower, train_dense
from perception_encoder.dense_training.validation import DenseValidation
from perception_encoder.errors import DataError, MediaDecodeError
from perception_encoder.evaluation.dense.detection import average_precision, write_detection_plots
from perception_encoder.training.checkpoint import BEST
from tests.dense_training.datasets import HEADS, small_config, write_dataset
from tests.training.toys import rows


def make(task: str, path: Path) -> DenseValidation:
    config = small_config(task)
    kind = KINDS[type(config.head)](config, path)
    tower, layer = open_tower(config)
    backbone = Backbone(tower, layer, frozen=True)
    head = make_head(describe_head(config, tower, layer, kind), backbone.width)
    return kind.validation(DenseModel(backbone, head), kind.held_out, 3, 32)


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
    with pytest.raises(DataError, match="no validation image can be used"):
        validation.validate("")


@pytest.mark.parametrize(
    ("task", "truth", "expected"),
    [("depth", "depth", {"rmse": 0, "abs_rel": 0, "delta1": 1}), ("segmenter", "labels", {"miou": 1, "pixels": 1})],
)
def test_perfect_maps(
    task: str, truth: str, expected: dict[str, float], datasets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = make(task, datasets[task])
    chosen, read = iter(validation.rows), getattr(validation.samples.dataset, truth)
    monkeypatch.setattr(
        validation.model.head, "predict", lambda features, size: torch.from_numpy(read(next(chosen)))[None]
    )
    assert validation.validate("") == pytest.approx(expected)
    assert validation.higher_is_better == {name: score > 0.5 for name, score in expected.items()}


def test_images_without_objects_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their average precision was NaN, at each validation."""
    data = write_dataset("detector", tmp_path / "data")
    file = data / "test" / "instances.json"
    content = json.loads(file.read_text())
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] == 2]  # not validated
    crowd = {**content["annotations"][0], "id": 9, "image_id": 1, "iscrowd": 1}
    file.write_text(json.dumps({**content, "annotations": [*content["annotations"], crowd]}))
    out = tmp_path / "run"
    train_dense(small_config("detector", "validation.size=3"), [data], out)
    assert "none of the 3 validation images has an object" in caplog.text
    assert not any("validation/box_ap" in row for row in rows(out))
    assert not (out / BEST).exists() and not list(out.glob("*.png"))


def test_a_detectors_plots(tmp_path: Path, datasets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three images' objects: one is missed, one taken for the other class, and nothing is detected as one."""
    train_dense(small_config("detector", "head.least_score=0"), [datasets["detector"]], tmp_path)
    for name in ("precision_recall.png", "confusion_matrix.png"):
        with Image.open(tmp_path / name) as plot:
            assert min(plot.size) > 300
    drawn: list[Any] = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **_: drawn.append(figure))
    box, other = [10.0, 10, 20, 20], [40.0, 10, 20, 20]
    truth = {
        "images": [{"id": number, "width": 64, "height": 48} for number in (1, 2, 3)],
        "categories": [{"id": 4, "name": "red"}, {"id": 9, "name": "blue"}],
        "annotations": [
            {"id": number, "image_id": number, "category_id": category, "bbox": box, "area": 400, "iscrowd": 0}
            for number, category in ((1, 4), (2, 4), (3, 9))
        ],
    }
    results = [
        {"image_id": image, "category_id": category, "bbox": place, "score": score}
        for image, category, place, score in [(1, 4, box, 0.9), (1, 9, other, 0.8), (2, 9, box, 0.7), (3, 9, box, 0.2)]
    ]
    write_detection_plots(truth, results, tmp_path)
    (axes,) = drawn[1].axes
    counts = {text.get_position()[::-1]: text.get_text() for text in axes.texts}  # (object, detected)
    assert counts == {(0, 0): "1", (0, 1): "1", (1, 2): "1", (2, 1): "1"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["red", "blue", "background"]
    (axes,) = drawn[0].axes
    red, blue, mean = (line.get_ydata() for line in axes.lines)
    assert red.tolist() == [1] * 51 + [0] * 50 and blue == pytest.approx([1 / 3] * 101)
    assert mean == pytest.approx((red + blue) / 2)
    ap = average_precision(truth, results, "box", resamples=0).values["AP50"]
    assert axes.lines[2].get_label() == f"all classes, AP50 {100 * ap:.1f}"


def test_perfect_objects(datasets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    validation = make("detector", datasets["detector"])
    chosen = iter(validation.rows)

    def detect(features, sizes, valid_sizes):
        true = validation.samples.dataset.instances(next(chosen))
        return [Detected(true.boxes, true.labels, np.full(len(true.labels), 0.9, np.float32), true.masks)]

    monkeypatch.setattr(validation.model.head, "detect", detect)
    scores = validation.validate("")
    assert scores == pytest.approx({"box_ap": 1, "box_ap50": 1, "mask_ap": 1, "mask_ap50": 1})
    assert all(validation.higher_is_better.values())
