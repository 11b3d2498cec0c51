"""Detection by Mask R-CNN over one frozen layer (section 3): box and mask AP, as COCO or LVIS define them.

AP is faster-coco-eval's, also on resampled images for intervals. The match of a detection depends on its own image
alone. So detections are matched once, and the library accumulates the matches of an image that is drawn twice as if it
were there twice.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int

from perception_encoder.datasets.instances import InstanceSet
from perception_encoder.dense_prediction.detection.detections import Detected
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectionConfig, fit_detector
from perception_encoder.dense_prediction.head_fitting import take
from perception_encoder.errors import needs_extra
from perception_encoder.evaluation.feature_cache import CachedTokens
from perception_encoder.evaluation.inputs import settings_digest
from perception_encoder.evaluation.layer_evaluator import HeadEvaluator
from perception_encoder.evaluation.statistics.scores import HEAD_SEEDS, Label, ResampledScores
from perception_encoder.files import write_bytes
from perception_encoder.progress import Track

if TYPE_CHECKING:
    from faster_coco_eval import COCO, COCOeval_faster


KINDS: Mapping[str, Literal["bbox", "segm"]] = {"box": "bbox", "mask": "segm"}
"""By kind of result, the library's name of it."""


class DetectionEvaluator(HeadEvaluator):
    """Boxes of objects, and masks if both datasets have them, predicted by a detector over one layer.

    Scores are `box AP` first, then `mask AP`, each with its parts; an AP that does not exist is left out.
    """

    def __init__(
        self,
        train: InstanceSet,
        test: InstanceSet,
        head: DetectionConfig | None = None,
        image_size: tuple[int, int] | None = None,
        name: str = "detection",
        head_seeds: int = HEAD_SEEDS,
    ) -> None:
        sets = (train, train.instances), (test, test.instances)
        super().__init__(name, *sets, head or DetectionConfig(), image_size, head_seeds)
        self.train, self.test, self.masks = train, test, train.has_masks and test.has_masks
        least_score, most = self.head.limits(train.lvis)
        self.label = Label(
            task=test.name,
            method="Mask R-CNN" if self.masks else "Faster R-CNN",
            classes=len(test.categories),
            settings={"channels": str(self.head.channels), "least score": f"{least_score:g}", "most": str(most)},
        )

    @cached_property
    def digest(self) -> str:
        parts = [(part.records, sorted(part.annotations.items()), part.categories) for part in (self.train, self.test)]
        return settings_digest(self.head, self.head_seeds, parts)

    def fit(
        self, head: DetectionConfig, train: CachedTokens, test: CachedTokens, track: Track
    ) -> list[ResampledScores]:
        known, maps = self.test, test.patches
        detector = fit_detector(train.patches, self.train, train.rows, self.masks, head, track)
        results: dict[str, list[dict[str, Any]]] = {"box": [], **({"mask": []} if self.masks else {})}
        for index, row in enumerate(track(test.rows, "detecting", len(test.rows))):
            (detected,) = detector.detect(take(maps, slice(index, index + 1)), [known.size(int(row))])
            for kind, found in to_results(detected, known, int(row)).items():
                results[kind] += found
        truth, names = known.truth(test.rows), [known.keys[int(row)] for row in test.rows]
        return [
            score
            for kind, found in results.items()
            for score in average_precision(truth, found, kind, known.lvis).scores(kind, names)
        ]


def to_results(detected: Detected, images: InstanceSet, row: int) -> dict[str, list[dict[str, Any]]]:
    """Return an image's detections in COCO's results format: `box`, and `mask`, in run lengths, if there are masks."""
    with needs_extra("eval", "faster-coco-eval"):
        from faster_coco_eval.core import mask as library
    numbers = [images.categories[label - 1]["id"] for label in detected.labels.tolist()]
    corners = detected.boxes.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    entries = [
        {"image_id": images.records[row]["id"], "category_id": number, "score": score}
        for number, score in zip(numbers, detected.scores.tolist(), strict=True)
    ]
    results = {"box": [{**entry, "bbox": box} for entry, box in zip(entries, boxes, strict=True)]}
    if detected.masks is not None:
        masks = (library.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in detected.masks)
        results["mask"] = [{**entry, "segmentation": mask} for entry, mask in zip(entries, masks, strict=True)]
    return results


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
    truth: dict[str, Any], results: Sequence[dict[str, Any]], kind: str, lvis: bool = False, resamples: int = RESAMPLES
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
    known: COCO, detected: COCO, kind: str, lvis: bool, category: int, images: Sequence[int]
) -> COCOeval_faster:
    from faster_coco_eval import COCOeval_faster

    evaluator = COCOeval_faster(known, detected, KINDS[kind], lvis_style=lvis, separate_eval=True)
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


OVERLAP, CONFIDENT = 0.5, 0.25
"""Minimum IoU of a correct detection, and minimum score of those in the confusion matrix."""
LISTED = 30  # maximum number of classes whose names and counts fit into a plot
BACKGROUND = "background"


def write_detection_plots(
    truth: dict[str, Any], results: Sequence[dict[str, Any]], directory: Path, lvis: bool = False
) -> None:
    """Write precision_recall.png and confusion_matrix.png of boxes in COCO's format (LVIS's if `lvis`).

    There must be an object. Raises OutputError, and MissingExtraError without faster-coco-eval or matplotlib.
    """
    with needs_extra("eval", "faster-coco-eval"):
        from faster_coco_eval import COCO
        from faster_coco_eval.extra import Curves, PreviewResults
    known = COCO(truth, use_deepcopy=True)
    found = known.loadRes([dict(result) for result in counted_results(truth, results, lvis)])
    names = {category["id"]: str(category.get("name", category["id"])) for category in truth["categories"]}
    _plot_curves(Curves(known, found, "bbox", iou_tresh=OVERLAP, useCats=True).build_curve(""), names, directory)
    counts = PreviewResults(known, found, "bbox", CONFIDENT, OVERLAP).compute_confusion_matrix()  # (K, K + 2)
    square = np.pad(counts[:, :-2], (0, 1))
    square[-1, :-1], square[:-1, -1] = counts[:, -2], counts[:, -1]  # detections of nothing, and missed objects
    _plot_confusion(square, list(names.values()), directory)


def _plot_curves(curves: Sequence[dict[str, Any]], names: dict[int, str], directory: Path) -> None:
    figure, axes = _figure(6.0)
    listed = len(curves) <= 10
    for curve in curves:
        label = names[curve["category_id"]] if listed else None
        axes.plot(curve["recall_list"], curve["precision_list"], linewidth=1, alpha=1 if listed else 0.2, label=label)
    mean = np.mean([curve["precision_list"] for curve in curves], axis=0)
    label = f"all classes, AP50 {100 * mean.mean():.1f}"
    axes.plot(curves[0]["recall_list"], mean, linewidth=3, color="black", label=label)
    axes.set(xlabel="recall", ylabel=f"precision at IoU {OVERLAP}", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="lower left")
    _write(figure, directory / "precision_recall.png")


def _plot_confusion(counts: np.ndarray, names: Sequence[str], directory: Path) -> None:
    listed = len(names) <= LISTED
    figure, axes = _figure(4 + 0.4 * len(counts) if listed else 12.0)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if listed:
        ticks = range(len(counts))
        axes.set_xticks(ticks, [*names, BACKGROUND], rotation=90)
        axes.set_yticks(ticks, [*names, BACKGROUND])
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour)
    axes.set(xlabel=f"detected, score ≥ {CONFIDENT}, IoU ≥ {OVERLAP}", ylabel="object")
    _write(figure, directory / "confusion_matrix.png")


def _figure(side: float) -> tuple[Any, Any]:
    with needs_extra("plot", "matplotlib"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(side, side), layout="constrained")
    return figure, figure.add_subplot()


def _write(figure: Any, path: Path) -> None:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    write_bytes(path, drawn.getvalue())
