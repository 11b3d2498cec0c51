"""Score a head on whole images while it trains: depth errors, class overlap, or average precision."""

from __future__ import annotations

import dataclasses
import logging
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from perception_encoder.datasets.class_masks import ClassMasks
from perception_encoder.datasets.instances import InstanceSet
from perception_encoder.datasets.rgbd import DepthImages
from perception_encoder.dense_prediction.dense_model import DenseModel
from perception_encoder.dense_prediction.depth import DepthConfig, DepthHead
from perception_encoder.dense_prediction.detection.detr import DetrHead
from perception_encoder.dense_prediction.detection.mask_rcnn import Detector
from perception_encoder.dense_prediction.segmentation import SegmentationHead
from perception_encoder.dense_training.batches import DenseSamples
from perception_encoder.errors import DataError, InputError, OutputError, needs_extra
from perception_encoder.evaluation.dense.depth import DepthProtocol, depth_errors
from perception_encoder.evaluation.dense.detection import KINDS, average_precision, counted_results, to_results
from perception_encoder.evaluation.dense.segmentation import overlap_scores, overlaps
from perception_encoder.evaluation.statistics.scores import estimate
from perception_encoder.files import replacing, writing
from perception_encoder.preprocess.frames import spread_indices
from perception_encoder.training.distributed import this_rank

logger = logging.getLogger(__name__)


class DenseValidation(ABC):
    """Scores a model on at most `size` evenly spaced images of a dataset."""

    higher_is_better: Mapping[str, bool]  # metrics, the default one first

    def __init__(
        self, model: DenseModel, samples: DenseSamples, size: int, image_size: int, out: Path | None = None
    ) -> None:
        """`image_size`: longer side of an image in pixels. `out`: a directory for a detector's plots."""
        self.model, self.samples, self.image_size, self.out = model, samples, image_size, out
        self.head: Any = model.head
        self.dataset: Any = samples.dataset
        self.rows = spread_indices(len(samples.keys), min(size, len(samples.keys)))

    def validate(self, metric: str) -> dict[str, float]:
        """Return the scores; unusable images are skipped and logged. Raises DataError if all are."""
        self.model.eval()
        measured: dict[int, Any] = {}
        for row in self.rows:
            try:
                image, _ = self.samples.read(row)
                measured[row] = self.measure(row, image, self.model.map_of(image, self.image_size))
            except InputError as error:
                logger.warning("skipped %s", error)
        if not measured:
            raise DataError("no validation image can be used; the log says why")
        return self.scores(measured)

    @abstractmethod
    def measure(self, row: int, image: Image.Image, features: Float[Tensor, "1 h w D"]) -> Any:
        """Predict on an image of the dataset, and compare the prediction with the truth."""

    @abstractmethod
    def scores(self, measured: Mapping[int, Any]) -> dict[str, float]:
        """Return the scores over all images, by row."""


class DepthValidation(DenseValidation):
    """Root mean squared error in metres, relative error and the share within 1.25, means over images."""

    higher_is_better: Mapping[str, bool] = {"rmse": False, "abs_rel": False, "delta1": True}
    dataset: DepthImages
    head: DepthHead

    def measure(self, row: int, image: Image.Image, features: Tensor) -> dict[str, float]:
        truth = self.dataset.depth(row)
        predicted = self.head.predict(features, (truth.shape[0], truth.shape[1]))[0].cpu().numpy()
        protocol = DepthProtocol(head=DepthConfig(**dataclasses.asdict(self.head.config)))
        return depth_errors(self.samples.keys[row], predicted, truth, protocol)

    def scores(self, measured: Mapping[int, dict[str, float]]) -> dict[str, float]:
        names = {"rmse": "RMSE", "abs_rel": "abs rel", "delta1": "delta1"}
        return {name: float(np.mean([errors[key] for errors in measured.values()])) for name, key in names.items()}


class ClassValidation(DenseValidation):
    """Mean intersection over union of the classes, and the share of pixels that are right."""

    higher_is_better: Mapping[str, bool] = {"miou": True, "pixels": True}
    dataset: ClassMasks
    head: SegmentationHead

    def measure(self, row: int, image: Image.Image, features: Tensor) -> tuple[np.ndarray, np.ndarray]:
        truth = self.dataset.labels(row)
        predicted = self.head.predict(features, (truth.shape[0], truth.shape[1]))[0].cpu().numpy()
        return overlaps(predicted, truth, len(self.dataset.classes))

    def scores(self, measured: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        intersections, unions = (np.array(counts) for counts in zip(*measured.values(), strict=True))
        scores = overlap_scores(intersections, unions, [self.samples.keys[row] for row in measured])
        return {name: estimate([score]).value for name, score in zip(self.higher_is_better, scores, strict=True)}


class ObjectValidation(DenseValidation):
    """Average precision of boxes, and of masks if the detector has them, as COCO or LVIS define it; plots of boxes.

    Images without an object have no average precision: a warning says so at the start, and there are no scores.
    """

    dataset: InstanceSet
    head: Detector | DetrHead

    def __init__(self, model: DenseModel, samples: DenseSamples, *rest: Any) -> None:
        super().__init__(model, samples, *rest)
        self.truth = self.dataset.truth(self.rows)
        self.has_objects = any(not item["iscrowd"] for item in self.truth["annotations"])
        if not self.has_objects:
            text = "none of the %d validation images has an object, so they give no average precision and no best step"
            logger.warning(text, len(self.rows))

    @property
    def higher_is_better(self) -> Mapping[str, bool]:  # type: ignore[override]
        kinds: Sequence[str] = list(KINDS) if self.head.masks else ["box"]
        return {f"{kind}_{name}": True for kind in kinds for name in ("ap", "ap50")}

    def measure(self, row: int, image: Image.Image, features: Tensor) -> Mapping[str, list[dict[str, Any]]]:
        sizes = self.model.valid_sizes(image.size, self.image_size)
        (detected,) = self.head.detect(features, [self.dataset.size(row)], sizes)
        return to_results(detected, self.dataset, row)

    def scores(self, measured: Mapping[int, Mapping[str, list[dict[str, Any]]]]) -> dict[str, float]:
        results: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for found in measured.values():
            for kind, rows in found.items():
                results[kind] += rows
        scores, lvis = dict[str, float](), self.dataset.lvis
        for kind, rows in results.items() if self.has_objects else ():
            values = average_precision(self.truth, rows, KINDS[kind], lvis, resamples=0).values
            scores |= {f"{kind}_ap": values["AP"], f"{kind}_ap50": values["AP50"]}
        if self.has_objects and self.out is not None and this_rank().is_first:
            try:
                write_detection_plots(self.truth, results["box"], self.out, lvis)
            except OutputError as error:
                logger.warning("%s", error)
        return scores


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
    with writing(path), replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
