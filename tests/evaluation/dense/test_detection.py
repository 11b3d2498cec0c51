"""Detection: formats, an oracle that finds all, and AP as pycocotools computes it."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from perception_encoder.datasets.instances import InstanceSet, read_instance_splits
from perception_encoder.dense_prediction.detection.detections import Detected
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectionConfig, fit_detector
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import DataError
from perception_encoder.evaluation.dense.detection import (
    KINDS,
    THRESHOLDS,
    DetectionEvaluator,
    _evaluator,
    average_precision,
    resampled_precision,
    to_results,
)
from perception_encoder.evaluation.statistics.scores import estimate_difference
from tests.data.tars import changing
from tests.datasets.drawn import write_instances
from tests.evaluation.layers import colour_source

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
    for kind in ("box", "mask"):
        every = [item for some in results for item in some[kind]]
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
    assert average_precision(truth, result, "box", resamples=5).values["AP"] == pytest.approx(1)
    with pytest.raises(DataError, match="LVIS has no boxes"):
        replace(train, records=({**train.records[0], "neg_category_ids": []},)).merge_classes()


def test_boxes_and_masks_are_measured_with_each_seed(tmp_path: Path) -> None:
    train, test = read_instance_splits(write_instances(tmp_path, {"train": 6, "test": 2}))
    result = list(DetectionEvaluator(train, test, SMALL).run(colour_source(16, (48, 64))))
    assert result[0].method == "Mask R-CNN" and result[0].settings["head seeds"] == "3"
    assert [score.name for score in result] == [f"{kind} {ap}" for kind in ("box", "mask") for ap in APS]
    assert [[item.seed for item in score.items] for score in result] == [[0, 1, 2]] * 6
    gap = estimate_difference(result[0].items, result[0].items)
    assert (gap.value, gap.interval(), gap.blocks) == (0, (-1, 1), 2)  # two images that agree say nothing


def test_lvis_counts_more_objects_and_less_sure_ones(tmp_path: Path) -> None:
    place = write_instances(tmp_path, {"train": 2, "test": 1})
    coco = read_instance_splits(place)
    for split in ("train", "test"):
        with changing(place / split / "instances.json") as said:
            for image in said["images"]:
                image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
            for category in said["categories"]:
                category["frequency"] = "f"
    lvis = read_instance_splits(place)
    asked = replace(SMALL, most=7, least_score=0.0)
    for parts, head, limits in (
        (coco, SMALL, (0.05, 100)),
        (lvis, SMALL, (0.0001, 300)),
        (lvis, asked, (0.0, 7)),
    ):
        model = fit_detector(np.zeros((2, 3, 4, 3)), parts[0], np.arange(2), config=head).model
        assert (model.roi_heads.score_thresh, model.roi_heads.detections_per_img) == limits
    result = list(DetectionEvaluator(*lvis, SMALL).run(colour_source(16, (48, 64))))
    assert (result[0].settings["most"], result[0].settings["least score"]) == ("300", "0.0001")
    assert "box APf" in [metric.name for metric in result]


@pytest.mark.parametrize("without", ["train", "test"])
def test_masks_are_learned_and_measured_where_both_sets_have_them(
    without: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = write_instances(tmp_path, {"train": 2, "test": 2})
    with changing(place / without / "instances.json") as said:
        del said["annotations"][1]["segmentation"]
    train, test = read_instance_splits(place)
    lacking, other = caplog.messages
    assert f"{without}/instances.json: 1 of 3 annotations have no mask; only boxes are trained" in lacking
    assert f"only {({'train', 'test'} - {without}).pop()}/instances has masks" in other
    result = list(DetectionEvaluator(train, test, SMALL).run(colour_source(16, (48, 64))))
    assert [score.name for score in result] == [f"box {ap}" for ap in APS]
    assert result[0].method == "Faster R-CNN"


def test_boxes_without_area_are_not_learned_from_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in COCO's images 200365 and 550395."""
    place = write_instances(tmp_path, {"train": 4, "test": 2})
    with changing(place / "train" / "instances.json") as said:
        said["annotations"][0]["bbox"][2] = 0  # of image 1, which has another one
        said["annotations"][2]["bbox"][3] = 0  # all that image 2 has
    train, test = read_instance_splits(place)
    result = list(DetectionEvaluator(train, test, SMALL).run(colour_source(16, (48, 64))))
    assert result[0].settings["train"] == "4" and len(result) == 6
    assert [len(train.instances(row).labels) for row in range(4)] == [1, 0, 2, 1]
    assert len(train.truth(range(4))["annotations"]) == 6
    (warning,) = caplog.messages
    assert "train/instances.json: 2 boxes without area are left out of training" in warning


SIDE = 60


def rle(box: list[float]) -> dict[str, Any]:
    from faster_coco_eval.core import mask

    pixels = np.zeros((SIDE, SIDE), np.uint8)
    left, top, width, height = (round(value) for value in box)
    pixels[top : top + height, left : left + width] = 1
    pixels[top, left] = 0  # so that masks are not just boxes
    return mask.encode(np.asfortranarray(pixels))


def crowded(seed: int, images: int = 8) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations of three categories, some crowds, and results: shifted, doubled, wrong and missing ones."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 6)):
            category = int(rng.integers(1, 3))
            left, top, width, height = rng.uniform((0, 0, 6, 6), (30, 30, 28, 28))
            box = [round(float(value)) for value in (left, top, width, height)]
            crowd = int(rng.random() < 0.15)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
                | {"area": box[2] * box[3] - 1, "segmentation": rle(box)}
            )
            for _ in range(rng.integers(0, 3)):
                moved = [float(value + rng.integers(-2, 3)) for value in box]
                moved = [max(0.0, moved[0]), max(0.0, moved[1]), max(4.0, moved[2]), max(4.0, moved[3])]
                other = category if rng.random() < 0.8 else 3
                results.append(detection(image, other, moved, float(rng.random())))
        results.append(detection(image, int(rng.integers(1, 4)), [1.0, 2.0, 9.0, 9.0], float(rng.random())))
    truth = {
        "images": [{"id": image, "width": SIDE, "height": SIDE} for image in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": number, "name": str(number)} for number in (1, 2, 3)],
    }
    return truth, results


def detection(image: int, category: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score, "segmentation": rle(box)}


def of_kind(results: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Results without what the other kind looks at."""
    other = "segmentation" if kind == "box" else "bbox"
    return [{name: value for name, value in result.items() if name != other} for result in results]


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_results_are_those_of_pycocotools(kind) -> None:
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    for seed in range(2):
        truth, results = crowded(seed)
        ours = average_precision(truth, of_kind(results, kind), kind, resamples=5)
        with contextlib.redirect_stdout(io.StringIO()):
            known = COCO()
            known.dataset = truth
            known.createIndex()
            theirs = COCOeval(known, known.loadRes([dict(item) for item in of_kind(results, kind)]), KINDS[kind])
            theirs.evaluate()
            theirs.accumulate()
            theirs.summarize()
        assert 0.1 < ours.values["AP"] < 0.9
        assert [ours.values[name] for name in ("AP", "AP50", "AP75")] == pytest.approx(theirs.stats[:3], abs=1e-12)


@pytest.mark.parametrize("lvis", [False, True])
def test_an_image_drawn_twice_is_an_image_that_is_there_twice(lvis: bool) -> None:
    truth, results = crowded(3)
    results = of_kind(results, "box")
    for image in truth["images"]:
        image |= {"neg_category_ids": [3], "not_exhaustive_category_ids": [2] if image["id"] % 2 else []}
    for category in truth["categories"]:
        category["frequency"] = "rcf"[category["id"] - 1]
    from faster_coco_eval import COCO, COCOeval_faster

    def library(truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[COCO, COCO]:
        known = COCO(truth, use_deepcopy=True)
        return known, known.loadRes([dict(result) for result in results])

    counts = np.array([[1] * 8, [2, 0, 1, 3, 0, 1, 1, 0]])
    evaluators = [_evaluator(*library(truth, results), "box", lvis, category, range(1, 9)) for category in (1, 2, 3)]
    resampled = np.stack([resampled_precision(evaluator, counts) for evaluator in evaluators], axis=-1)
    for times, ours in zip(counts, resampled, strict=True):
        many: dict[str, Any] = {**truth, "images": [], "annotations": []}
        again = []
        for number, image in enumerate(np.repeat(np.arange(1, 9), times).tolist(), start=1):
            many["images"].append({**truth["images"][image - 1], "id": number})
            of_image = [annotation for annotation in truth["annotations"] if annotation["image_id"] == image]
            start = len(many["annotations"])
            many["annotations"] += [{**a, "id": start + n, "image_id": number} for n, a in enumerate(of_image, start=1)]
            again += [{**result, "image_id": number} for result in results if result["image_id"] == image]
        whole = COCOeval_faster(*library(many, again), "bbox", lvis_style=lvis)
        whole.params.maxDets = [300] if lvis else [1, 10, 100]
        whole.evaluate()
        whole.accumulate()
        assert np.allclose(whole.params.iouThrs, THRESHOLDS)
        precision = whole.eval["precision"][:, :, :, 0, -1]
        theirs = np.where(precision[0, 0] > -1, precision.mean(axis=1), np.nan)
        assert np.allclose(ours, theirs, equal_nan=True, atol=1e-12)


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_lvis_looks_only_where_categories_were_looked_for(kind) -> None:
    box = [10.0, 10.0, 20.0, 20.0]
    truth: dict[str, Any] = {
        "images": [
            {"id": 1, "width": SIDE, "height": SIDE, "neg_category_ids": [], "not_exhaustive_category_ids": []},
            {"id": 2, "width": SIDE, "height": SIDE, "neg_category_ids": [], "not_exhaustive_category_ids": []},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 400, "iscrowd": 0}
            | {"segmentation": rle(box)}
        ],
        "categories": [
            {"id": 1, "name": "a", "frequency": "r"},
            {"id": 2, "name": "b", "frequency": "f"},
        ],
    }
    results = of_kind([detection(1, 1, box, 0.5), detection(2, 1, box, 0.9)], kind)  # nobody looked for 1 in image 2
    measured = average_precision(truth, results, kind, lvis=True)
    assert measured.values["APr"] == measured.values["AP"] == 1 and np.isnan(measured.values["APf"])
    assert "box APf" not in {score.metric for score in measured.scores("box", ["1", "2"])}
    truth["images"][1]["neg_category_ids"] = [1]  # somebody did
    assert average_precision(truth, results, kind, lvis=True).values["APr"] == pytest.approx(0.5)


def test_lvis_takes_the_300_best_of_an_image_over_all_categories() -> None:
    """As lvis-api does, before it leaves out categories that nobody looked for; COCO takes 100 of each category."""
    box, wrong = [10.0, 10.0, 20.0, 20.0], [40.0, 40.0, 9.0, 9.0]
    truth: dict[str, Any] = {
        "images": [
            {"id": 1, "width": SIDE, "height": SIDE, "neg_category_ids": [2], "not_exhaustive_category_ids": []},
        ],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 400, "iscrowd": 0}],
        "categories": [{"id": number, "name": str(number), "frequency": "f"} for number in (1, 2, 3)],
    }
    others = [detection(1, 2 + number % 2, wrong, 0.9 - number / 1000) for number in range(299)]
    right, late = detection(1, 1, box, 0.5), detection(1, 3, wrong, 0.51)

    def precision(results: list[dict[str, Any]], lvis: bool) -> float:
        return average_precision(truth, of_kind(results, "box"), "box", lvis, resamples=0).values["AP"]

    assert precision([right, *others], True) == 1 and precision([right, *others, late], True) == 0
    assert precision([right, *others, late], False) == 1
    own = [detection(1, 1, wrong, 0.9)] * 100
    assert precision([right, *own[1:]], False) > 0 and precision([right, *own], False) == 0
