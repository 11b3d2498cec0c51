"""Average precision of boxes and masks, by faster-coco-eval; and on resampled images, for intervals.

The match of a detection depends on its own image alone. So detections are matched once, and an image that is drawn
twice counts twice in the precision at every recall: the same as if it were there twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from perception_encoder.errors import MissingExtraError
from perception_encoder.evaluation.statistics.scores import ResampledScores

AnnotationKind = Literal["bbox", "segm"]
SEED, RESAMPLES = 0, 200
MOST = {False: [1, 10, 100], True: [300]}
"""The number of detections of an image that count: COCO's, LVIS's."""
FREQUENCIES = {"r": "APr", "c": "APc", "f": "APf"}


@dataclass(frozen=True)
class AveragePrecision:
    """Metrics of a dataset, and the same on resampled images."""

    values: dict[str, float]
    """`AP` (0.50 to 0.95), `AP50`, `AP75`, and in LVIS those of rare, common and frequent categories."""
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
    """Evaluate results, in COCO's format, against annotations in COCO's format, or LVIS's with `lvis`.

    MissingExtraError without faster-coco-eval.
    """
    evaluator = _evaluate(truth, results, kind, lvis)
    thresholds = evaluator.params.iouThrs
    precision = evaluator.eval["precision"][:, :, :, 0, -1]  # (T, recalls, K), -1 if a class does not occur
    by_class = np.where(precision[0, 0] > -1, precision.mean(axis=1), np.nan)  # (T, K)
    matches = [_match(evaluator, category) for category in evaluator.params.catIds]
    order = {image: row for row, image in enumerate(evaluator.params.imgIds)}
    generator = np.random.default_rng(SEED)
    counts = generator.multinomial(len(order), np.full(len(order), 1 / len(order)), resamples)
    draws = np.stack([weighted_precision(each, counts, evaluator.params.recThrs) for each in matches], axis=-1)
    chosen = _metrics(truth, thresholds, lvis)
    return AveragePrecision(
        values={
            name: float(_mean(by_class[None][:, rows][..., columns])[0]) for name, (rows, columns) in chosen.items()
        },
        draws={name: _mean(draws[:, rows][..., columns]) for name, (rows, columns) in chosen.items()},
    )


def _evaluate(truth: dict[str, Any], results: Sequence[dict[str, Any]], kind: AnnotationKind, lvis: bool) -> Any:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise MissingExtraError("faster-coco-eval", "eval") from None
    known = COCO(truth, use_deepcopy=True)
    detected = known.loadRes([dict(each) for each in results])
    evaluator = COCOeval_faster(known, detected, kind, lvis_style=lvis)
    evaluator.params.maxDets = MOST[lvis]
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator


def _metrics(truth: dict[str, Any], thresholds: np.ndarray, lvis: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the indices of each metric's thresholds and classes."""
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    every = np.arange(len(categories))
    chosen = {"AP": (np.arange(len(thresholds)), every)}
    for percent in (50, 75):
        chosen[f"AP{percent}"] = (np.flatnonzero(np.isclose(thresholds, percent / 100)), every)
    for letter, name in FREQUENCIES.items() if lvis else ():
        some = [row for row, category in enumerate(categories) if category.get("frequency") == letter]
        chosen[name] = (np.arange(len(thresholds)), np.array(some, dtype=np.int64))
    return chosen


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over thresholds and classes (R, T, K) → (R,), NaN for none."""
    held = np.isfinite(values)
    count = held.sum(axis=(1, 2))
    total = np.where(held, values, 0).sum(axis=(1, 2))
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


@dataclass(frozen=True)
class Matches:
    """A category's detections, best first, and their matches."""

    owners: np.ndarray
    """Each one's image, (d,)."""
    right: Bool[np.ndarray, "T d"]
    ignored: Bool[np.ndarray, "T d"]
    """Neither right nor wrong: in a crowd, or if a category was not looked for throughout."""
    objects: np.ndarray
    """The number of objects to find in each image, (n,)."""


def _match(evaluator: Any, category: int) -> Matches:
    """Match a category's detections in every image, as COCO does."""
    params, most = evaluator.params, evaluator.params.maxDets[-1]
    owners, scores, right, ignored = [], [], [], []
    objects = np.zeros(len(params.imgIds), dtype=np.int64)
    for row, image in enumerate(params.imgIds):
        crowd, detected, marks = _of_image(evaluator, image, category)
        objects[row] = (~crowd).sum()
        order = np.argsort([-each["score"] for each in detected], kind="mergesort")[:most]
        if not len(order):
            continue
        overlaps = np.asarray(evaluator.ious[image, category], dtype=np.float64).reshape(len(order), len(crowd))
        taken = [_match_image(overlaps, crowd, float(threshold)) for threshold in params.iouThrs]
        hit = np.array([each >= 0 for each in taken]).reshape(len(taken), len(order))
        in_crowd = np.array([[index >= 0 and crowd[index] for index in each] for each in taken], dtype=bool)
        right.append(hit & ~in_crowd)
        ignored.append(in_crowd | (~hit & marks))
        owners.append(np.full(len(order), row))
        scores.append(np.array([detected[index]["score"] for index in order], dtype=np.float64))
    shape = len(params.iouThrs), 0
    best = np.argsort(-np.concatenate([*scores, np.zeros(0)]), kind="mergesort")
    joined = [np.concatenate([*parts, np.zeros(shape, bool)], axis=1)[:, best] for parts in (right, ignored)]
    return Matches(np.concatenate([*owners, np.zeros(0, np.int64)])[best], joined[0], joined[1], objects)


def _of_image(evaluator: Any, image: int, category: int) -> tuple[np.ndarray, list[dict[str, Any]], bool]:
    """Return which of a category's objects are crowds, its detections, and whether a wrong one may be ignored."""
    known, detected = (
        data.get_instances([image], [category], True)[0][0] for data in (evaluator.gt_dataset, evaluator.dt_dataset)
    )
    marked = evaluator.lvis_style and category in evaluator.img_nel.get(image, [])
    return np.array([bool(each.get("iscrowd", 0)) for each in known], dtype=bool), detected, bool(marked)


def _match_image(overlaps: np.ndarray, crowd: np.ndarray, threshold: float) -> np.ndarray:
    """Return each detection's object, (d,), or -1: the free one that it overlaps most; a crowd is never used up."""
    taken = np.full(len(overlaps), -1)
    free = ~crowd
    for row, own in enumerate(overlaps):
        for these in (free, crowd):
            if these.any():
                reached = np.where(these, own, -1)
                last = len(own) - 1 - int(reached[::-1].argmax())  # of equal ones the last, as in COCO
                if reached[last] >= min(threshold, 1 - 1e-10):
                    taken[row] = last
                    break
        if taken[row] >= 0 and not crowd[taken[row]]:
            free[taken[row]] = False
    return taken


def weighted_precision(
    matches: Matches, counts: np.ndarray, recalls: Float[np.ndarray, " P"]
) -> Float[np.ndarray, "R T"]:
    """Return a category's average precision if each image counts so often, (R, n); NaN if there is nothing to find."""
    wanted = counts @ matches.objects
    precisions = np.full((len(counts), len(matches.right)), np.nan)
    weights = counts[:, matches.owners].astype(np.float64)
    for row, column in itertools.product(np.flatnonzero(wanted), range(len(matches.right))):
        hits = (weights[row] * (matches.right[column] & ~matches.ignored[column])).cumsum()
        misses = (weights[row] * (~matches.right[column] & ~matches.ignored[column])).cumsum()
        precision = np.maximum.accumulate((hits / (hits + misses + np.spacing(1)))[::-1])[::-1]
        at = np.searchsorted(hits / wanted[row], recalls, side="left")
        precisions[row, column] = np.concatenate([precision, [0.0]])[np.minimum(at, len(precision))].mean()
    return precisions
