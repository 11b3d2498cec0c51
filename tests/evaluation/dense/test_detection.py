"""Detection: formats, an oracle that finds all, and what cannot be measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from perception_encoder.datasets.instances import InstanceSet, read_instance_splits
from perception_encoder.dense_prediction.detection.detections import Detected
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectionConfig, fit_detector
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import DataError
from perception_encoder.evaluation.dense.average_precision import average_precision
from perception_encoder.evaluation.dense.detection import (
    DetectionEvaluator,
    to_results,
)
from perception_encoder.evaluation.statistics.scores import by_metric, difference
from tests.datasets.drawn import write_instances
from tests.evaluation.layers import ColourLayers

pytest.importorskip("torchvision")
pytest.importorskip("faster_coco_eval")

T = TypeVar("T")
SMALL = DetectionConfig(channels=16, hidden=32, regions=32, fit=FitConfig(epochs=1, batch=4))


def found_all(images: InstanceSet, row: int) -> Detected:
    things = images.instances(row)
    return Detected(things.boxes, things.labels, np.ones(len(things.labels), np.float32), things.masks)


def test_an_oracle_finds_all(tmp_path: Path) -> None:
    _, test = read_instance_splits(write_instances(tmp_path, {"train": 1, "test": 4}))
    rows = np.arange(4)
    results = [to_results(found_all(test, row), test, row) for row in range(4)]
    for name, kind in (("box", "bbox"), ("mask", "segm")):
        every = [item for some in results for item in some[name]]
        assert average_precision(test.truth(rows), every, kind, resamples=5).values["AP"] == pytest.approx(1)


def test_kinds_can_be_forgotten(tmp_path: Path) -> None:
    parts = read_instance_splits(write_instances(tmp_path, {"train": 3, "test": 2}))
    known = parts[0].instances(0)
    assert len(set(known.labels)) == 2
    train, test = (part.merge_classes() for part in parts)
    things = train.instances(0)
    assert things.labels.tolist() == [1, 1] and things.masks is None and (things.boxes == known.boxes).all()
    result = [item for row in range(2) for item in to_results(found_all(test, row), test, row)["box"]]
    truth = test.truth(np.arange(2))
    assert [category["name"] for category in truth["categories"]] == ["object"]
    assert average_precision(truth, result, "bbox", resamples=5).values["AP"] == pytest.approx(1)
    with pytest.raises(DataError, match="LVIS has no boxes for categories that were not annotated"):
        replace(train, records=({**train.records[0], "neg_category_ids": []},)).merge_classes()


@pytest.mark.parametrize("masks", [True, False])
def test_a_detector_is_fitted_and_measured(tmp_path: Path, masks: bool) -> None:
    train, test = read_instance_splits(write_instances(tmp_path, {"train": 6, "test": 2}, masks))
    encoder = ColourLayers(16, (48, 64))
    (result,) = DetectionEvaluator(train, test, SMALL).run(encoder.at(0))
    assert not result.failures and result.method == ("Mask R-CNN" if masks else "Faster R-CNN")
    names = ["box AP", "box AP50", "box AP75"] + (["mask AP", "mask AP50", "mask AP75"] if masks else [])
    assert [metric.name for metric in result.metrics] == names
    (again,) = DetectionEvaluator(train, test, SMALL).run(encoder.at(0))
    assert again.metrics == result.metrics  # what is drawn at random hangs on the seed
    assert [scores.metric for scores in result.scores] == names * 3  # three head seeds
    assert [scores.seed for scores in result.scores[:: len(names)]] == [0, 1, 2] and result.settings[
        "head seeds"
    ] == "3"
    gap = difference(*(by_metric(item.scores)["box AP"] for item in (result, again)))
    assert (gap.value, gap.interval, gap.n) == (0, (-1, 1), 2)  # two images that agree say nothing


def test_lvis_counts_more_objects_and_less_sure_ones(tmp_path: Path) -> None:
    place = write_instances(tmp_path, {"train": 2, "test": 1})
    coco = read_instance_splits(place)
    for split in ("train", "test"):
        file = place / split / "instances.json"
        said = json.loads(file.read_text(encoding="utf-8"))
        for image in said["images"]:
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        for category in said["categories"]:
            category["frequency"] = "f"
        file.write_text(json.dumps(said), encoding="utf-8")
    lvis = read_instance_splits(place)
    asked = replace(SMALL, most=7, least_score=0.0)
    for parts, head, limits in (
        (coco, SMALL, (0.05, 100)),
        (lvis, SMALL, (0.0001, 300)),
        (lvis, asked, (0.0, 7)),
    ):
        model = fit_detector(np.zeros((2, 3, 4, 3)), parts[0], np.arange(2), config=head).model
        assert (model.roi_heads.score_thresh, model.roi_heads.detections_per_img) == limits
    (result,) = DetectionEvaluator(*lvis, SMALL).run(ColourLayers(16, (48, 64)).at(0))
    assert (result.settings["most"], result.settings["least score"]) == ("300", "0.0001")
    assert "box APf" in [metric.name for metric in result.metrics]


@pytest.mark.parametrize("without", ["train", "test"])
def test_masks_are_learned_and_measured_where_both_sets_have_them(
    without: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = write_instances(tmp_path, {"train": 2, "test": 2})
    file = place / without / "instances.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    del said["annotations"][1]["segmentation"]
    file.write_text(json.dumps(said), encoding="utf-8")
    train, test = read_instance_splits(place)
    lacking, other = caplog.messages
    assert f"{without}/instances.json: 1 of 3 annotations have no mask; only boxes are trained" in lacking
    assert f"only {({'train', 'test'} - {without}).pop()}/instances has masks" in other
    (result,) = DetectionEvaluator(train, test, SMALL).run(ColourLayers(16, (48, 64)).at(0))
    assert [metric.name for metric in result.metrics] == ["box AP", "box AP50", "box AP75"]
    assert result.method == "Faster R-CNN"


def test_boxes_without_area_are_not_learned_from_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in COCO's images 200365 and 550395."""
    place = write_instances(tmp_path, {"train": 4, "test": 2})
    file = place / "train" / "instances.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    said["annotations"][0]["bbox"][2] = 0  # of image 1, which has another one
    said["annotations"][2]["bbox"][3] = 0  # all that image 2 has
    file.write_text(json.dumps(said), encoding="utf-8")
    train, test = read_instance_splits(place)
    (result,) = DetectionEvaluator(train, test, SMALL).run(ColourLayers(16, (48, 64)).at(0))
    assert not result.failures and result.settings["train"] == "4" and len(result.metrics) == 6
    assert [len(train.instances(row).labels) for row in range(4)] == [1, 0, 2, 1]
    assert len(train.truth(range(4))["annotations"]) == 6
    (warning,) = caplog.messages
    assert "train/instances.json: 2 boxes without area are left out of training" in warning
