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
from perception_encoder.evaluation.dense.detection import (
    DetectionEvaluator,
    average_precision,
    to_results,
)
from perception_encoder.evaluation.statistics.scores import difference
from tests.datasets.drawn import write_instances
from tests.evaluation.layers import ColourLayers

pytest.importorskip("torchvision")
pytest.importorskip("faster_coco_eval")

T = TypeVar("T")
APS = ("AP", "AP50", "AP75")
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


def test_boxes_and_masks_are_measured_with_each_seed(tmp_path: Path) -> None:
    train, test = read_instance_splits(write_instances(tmp_path, {"train": 6, "test": 2}))
    result = list(DetectionEvaluator(train, test, SMALL).run(ColourLayers(16, (48, 64)).at(0)))
    assert result[0].method == "Mask R-CNN" and result[0].settings["head seeds"] == "3"
    assert [score.name for score in result] == [f"{kind} {ap}" for kind in ("box", "mask") for ap in APS]
    assert [[item.seed for item in score.items] for score in result] == [[0, 1, 2]] * 6
    gap = difference(result[0].items, result[0].items)
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
    result = list(DetectionEvaluator(*lvis, SMALL).run(ColourLayers(16, (48, 64)).at(0)))
    assert (result[0].settings["most"], result[0].settings["least score"]) == ("300", "0.0001")
    assert "box APf" in [metric.name for metric in result]


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
    result = list(DetectionEvaluator(train, test, SMALL).run(ColourLayers(16, (48, 64)).at(0)))
    assert [score.name for score in result] == [f"box {ap}" for ap in APS]
    assert result[0].method == "Faster R-CNN"


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
    result = list(DetectionEvaluator(train, test, SMALL).run(ColourLayers(16, (48, 64)).at(0)))
    assert result[0].settings["train"] == "4" and len(result) == 6
    assert [len(train.instances(row).labels) for row in range(4)] == [1, 0, 2, 1]
    assert len(train.truth(range(4))["annotations"]) == 6
    (warning,) = caplog.messages
    assert "train/instances.json: 2 boxes without area are left out of training" in warning
