"""Average precision of boxes and masks by faster-coco-eval, also on resampled images for intervals.

The match of a detection depends on its own image alone. So detections are matched once, and the library accumulates the
matches of an image that is drawn twice as if it were there twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int

from perception_encoder.errors import needs_extra
from perception_encoder.evaluation.statistics.scores import ResampledScores

if TYPE_CHECKING:
    from faster_coco_eval import COCO, COCOeval_faster

AnnotationKind = Literal["bbox", "segm"]
SEED, RESAMPLES = 0, 200
THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Minimum overlaps (IoU) of a correct detection with an object."""
MOST = {False: 100, True: 300}
"""Maximum number of detections per image: of each category as in COCO, of all together as in LVIS."""
FREQUENCIES = {"r": "APr", "c": "APc", "f": "APf"}


@dataclass(frozen=True)
class AveragePrecision:
    """Metrics of a dataset, with their values on resampled images."""

    values: dict[str, float]
    """`AP` (0.50 to 0.95), `AP50`, `AP75`, and for LVIS those of rare, common and frequent categories."""
    draws: dict[str, Float[np.ndarray, " R"]]
    """The same resamples each time, so that differences of two models pair."""

    def scores(self, prefix: str, names: Sequence[str]) -> tuple[ResampledScores, ...]:
        """Return the metrics that exist; `names`: the images', in the dataset's order."""
        return tuple(
            ResampledScores.of(f"{prefix} {name}", value, self.draws[name], names)
            for name, value in self.values.items()
            if np.isfinite(value)
        )


def average_precision(
    truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    kind: AnnotationKind,
    lvis: bool = False,
    resamples: int = RESAMPLES,
) -> AveragePrecision:
    """Evaluate results in COCO's format against annotations in COCO's format, or in LVIS's if `lvis`.

    MissingExtraError without faster-coco-eval.
    """
    with needs_extra("eval", "faster-coco-eval"):
        from faster_coco_eval import COCO
    results = counted_results(truth, results, lvis)
    known = COCO(truth, use_deepcopy=True)
    detected = known.loadRes([dict(result) for result in results])
    order = {image: row for row, image in enumerate(sorted(image["id"] for image in truth["images"]))}
    generator = np.random.default_rng(SEED)
    resampled = generator.multinomial(len(order), np.full(len(order), 1 / len(order)), resamples)
    counts = np.concatenate([np.ones((1, len(order)), np.int64), resampled])
    rows: dict[int, set[int]] = {category["id"]: set() for category in truth["categories"]}
    for item in (*truth["annotations"], *results):
        rows[item["category_id"]].add(order[item["image_id"]])
    images = list(order)
    precision = np.full((len(counts), len(THRESHOLDS), len(rows)), np.nan)
    for column, category in enumerate(sorted(rows)):
        if some := sorted(rows[category]):
            evaluator = _evaluator(known, detected, kind, lvis, category, [images[row] for row in some])
            precision[..., column] = resampled_precision(evaluator, counts[:, some])
    metrics = {name: _mean(precision[:, rows][..., columns]) for name, (rows, columns) in _metrics(truth, lvis).items()}
    return AveragePrecision(
        values={name: float(metric[0]) for name, metric in metrics.items()},
        draws={name: value[1:] for name, value in metrics.items()},
    )


def counted_results(truth: dict[str, Any], results: Sequence[dict[str, Any]], lvis: bool) -> Sequence[dict[str, Any]]:
    """Return the results that count: in COCO all, in LVIS an image's 300 best, if somebody looked for their category.

    The library has no limit over categories, and cannot leave out all detections of an image if they are masks.
    """
    if not lvis:
        return results
    images: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        images[result["image_id"]].append(result)
    absent = {(image["id"], entry) for image in truth["images"] for entry in image.get("neg_category_ids", ())}
    looked_for = absent | {(item["image_id"], item["category_id"]) for item in truth["annotations"]}
    best = (sorted(some, key=itemgetter("score"), reverse=True)[: MOST[lvis]] for some in images.values())
    return [item for some in best for item in some if (item["image_id"], item["category_id"]) in looked_for]


def _evaluator(
    known: COCO, detected: COCO, kind: AnnotationKind, lvis: bool, category: int, images: Sequence[int]
) -> COCOeval_faster:
    """Match a category's detections in some images, as COCO or LVIS do."""
    from faster_coco_eval import COCOeval_faster

    evaluator = COCOeval_faster(known, detected, kind, lvis_style=lvis, separate_eval=True)
    params = evaluator.params
    params.catIds, params.imgIds, params.maxDets = [category], list(images), [MOST[lvis]]
    params.areaRng, params.areaRngLbl = params.areaRng[:1], params.areaRngLbl[:1]
    evaluator.evaluate()
    return evaluator


def resampled_precision(evaluator: COCOeval_faster, counts: Int[np.ndarray, "R n"]) -> Float[np.ndarray, "R T"]:
    """Return a category's average precision with each image counted `counts` times; NaN if it has no objects."""
    precisions = np.full((len(counts), len(THRESHOLDS)), np.nan)
    matches = evaluator._evalImgs_cpp
    for row, times in enumerate(counts.tolist()):
        repeated = [match for match, count in zip(matches, times, strict=True) for _ in range(count)]
        if repeated:
            evaluator._evalImgs_cpp, evaluator._paramsEval.imgIds = repeated, list(range(len(repeated)))
            evaluator.accumulate()
            precision = evaluator.eval["precision"][:, :, 0, 0, 0]  # (T, recalls), -1 if there is nothing to find
            precisions[row] = np.where(precision[:, 0] > -1, precision.mean(axis=1), np.nan)
    return precisions


def _metrics(truth: dict[str, Any], lvis: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the indices of each metric's thresholds and classes."""
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    every = np.arange(len(categories))
    indices = {"AP": (np.arange(len(THRESHOLDS)), every)}
    for percent in (50, 75):
        indices[f"AP{percent}"] = (np.flatnonzero(np.isclose(THRESHOLDS, percent / 100)), every)
    for letter, name in FREQUENCIES.items() if lvis else ():
        some = [row for row, category in enumerate(categories) if category.get("frequency") == letter]
        indices[name] = (np.arange(len(THRESHOLDS)), np.array(some, dtype=np.int64))
    return indices


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over thresholds and classes (R, T, K) → (R,), NaN for none."""
    count = np.isfinite(values).sum(axis=(1, 2))
    total = np.nansum(values, axis=(1, 2))
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
