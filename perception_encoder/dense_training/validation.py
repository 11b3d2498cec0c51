"""Score a head on whole images while it trains: depth errors, class overlap, or average precision."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping
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
from perception_encoder.dense_prediction.depth import DepthHead
from perception_encoder.dense_prediction.detection.detr import DetrHead
from perception_encoder.dense_prediction.detection.mask_rcnn import Detector
from perception_encoder.dense_prediction.segmentation import SegmentationHead
from perception_encoder.dense_training.batches import DenseSamples
from perception_encoder.errors import DataError, InputError, OutputError
from perception_encoder.evaluation.dense.depth import DepthProtocol, depth_errors
from perception_encoder.evaluation.dense.detection import average_precision, to_results, write_detection_plots
from perception_encoder.evaluation.dense.segmentation import overlap_scores, overlaps
from perception_encoder.evaluation.statistics.scores import estimate
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
        return depth_errors(self.samples.keys[row], predicted, truth, DepthProtocol(head=self.head.config))

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
        kinds = ("box", "mask") if self.head.masks else ("box",)
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
            values = average_precision(self.truth, rows, kind, lvis, resamples=0).values
            scores |= {f"{kind}_ap": values["AP"], f"{kind}_ap50": values["AP50"]}
        if self.has_objects and self.out is not None and this_rank().is_first:
            try:
                write_detection_plots(self.truth, results["box"], self.out, lvis)
            except OutputError as error:
                logger.warning("%s", error)
        return scores
