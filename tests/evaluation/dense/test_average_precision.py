"""AP: pycocotools' figures, hand-computed ones, and images that are there twice."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from perception_encoder.evaluation.dense.detection import (
    THRESHOLDS,
    _evaluator,
    average_precision,
    resampled_precision,
)

pytest.importorskip("faster_coco_eval")

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
    other = "segmentation" if kind == "bbox" else "bbox"
    return [{name: value for name, value in result.items() if name != other} for result in results]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
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
            theirs = COCOeval(known, known.loadRes([dict(item) for item in of_kind(results, kind)]), kind)
            theirs.evaluate()
            theirs.accumulate()
            theirs.summarize()
        assert 0.1 < ours.values["AP"] < 0.9
        assert [ours.values[name] for name in ("AP", "AP50", "AP75")] == pytest.approx(theirs.stats[:3], abs=1e-12)


@pytest.mark.parametrize("lvis", [False, True])
def test_an_image_drawn_twice_is_an_image_that_is_there_twice(lvis: bool) -> None:
    truth, results = crowded(3)
    results = of_kind(results, "bbox")
    for image in truth["images"]:
        image |= {"neg_category_ids": [3], "not_exhaustive_category_ids": [2] if image["id"] % 2 else []}
    for category in truth["categories"]:
        category["frequency"] = "rcf"[category["id"] - 1]
    from faster_coco_eval import COCO, COCOeval_faster

    def library(truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[COCO, COCO]:
        known = COCO(truth, use_deepcopy=True)
        return known, known.loadRes([dict(result) for result in results])

    counts = np.array([[1] * 8, [2, 0, 1, 3, 0, 1, 1, 0]])
    evaluators = [_evaluator(*library(truth, results), "bbox", lvis, category, range(1, 9)) for category in (1, 2, 3)]
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


@pytest.mark.parametrize("kind", ["bbox", "segm"])
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
        return average_precision(truth, of_kind(results, "bbox"), "bbox", lvis, resamples=0).values["AP"]

    assert precision([right, *others], True) == 1 and precision([right, *others, late], True) == 0
    assert precision([right, *others, late], False) == 1
    own = [detection(1, 1, wrong, 0.9)] * 100
    assert precision([right, *own[1:]], False) > 0 and precision([right, *own], False) == 0
