"""Score a head on whole images while it trains: depth errors, class overlap, or average precision."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from perception_encoder.dense_prediction.dense_model import DenseModel
from perception_encoder.dense_prediction.depth import DepthConfig, DepthHead
from perception_encoder.dense_prediction.detection.detr import DetrHead
from perception_encoder.dense_prediction.detection.mask_rcnn import Detector
from perception_encoder.dense_prediction.segmentation import SegmentationHead
from perception_encoder.dense_training.batches import ClassSamples, DenseSamples, DepthSamples, ObjectSamples
from perception_encoder.errors import InputError
from perception_encoder.evaluation.dense.average_precision import average_precision
from perception_encoder.evaluation.dense.depth import DepthProtocol, depth_errors
from perception_encoder.evaluation.dense.detection import KINDS, to_results
from perception_encoder.evaluation.dense.segmentation import overlap_scores, overlaps
from perception_encoder.evaluation.statistics.scores import estimate
from perception_encoder.preprocess.frames import spread_indices

logger = logging.getLogger(__name__)

Map = Float[Tensor, "1 h w D"]


class Scorer(Protocol):
    """Collects predictions and scores them."""

    higher_is_better: Mapping[str, bool]
    """Scores by metric, the default one first."""

    def add(self, index: int, image: Image.Image, features: Map) -> None:
        """Predict on an image of the dataset and store the outcome."""
        ...

    def scores(self) -> dict[str, float]:
        """Return the scores of all added images, and reset."""
        ...


class DenseValidation:
    """Scores a model on at most `size` evenly spaced images of a dataset."""

    def __init__(self, model: DenseModel, samples: DenseSamples, size: int, image_size: int) -> None:
        """`image_size`: longer side of an image in pixels."""
        self.model, self.samples, self.image_size = model, samples, image_size
        self.rows = spread_indices(len(samples.keys), min(size, len(samples.keys)))
        self.scorer = make_scorer(model, samples, self.rows, image_size)

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        """Return whether higher is better for each metric, the default one first."""
        return self.scorer.higher_is_better

    def validate(self, metric: str) -> dict[str, float]:
        """Return the scores; unusable images are skipped and logged."""
        self.model.eval()
        for row in self.rows:
            try:
                image, _ = self.samples.read(row)
                self.scorer.add(row, image, self.model.map_of(image, self.image_size))
            except InputError as error:
                logger.warning("skipped %s", error)
        return self.scorer.scores()


def make_scorer(model: DenseModel, samples: DenseSamples, rows: Sequence[int], image_size: int) -> Scorer:
    """Make the scorer of a head's task; `image_size`: longer side of an image in pixels."""
    match model.head, samples:
        case DepthHead() as head, DepthSamples():
            return DepthScorer(head, samples)
        case SegmentationHead() as head, ClassSamples():
            return ClassScorer(head, samples)
        case ((Detector() | DetrHead()), ObjectSamples()):
            return ObjectScorer(model, samples, rows, image_size)
    raise AssertionError(f"{type(model.head).__name__} does not learn from {type(samples).__name__}")


class DepthScorer:
    """Root mean squared error in metres, relative error and the share within 1.25, means over images."""

    higher_is_better: Mapping[str, bool] = {"rmse": False, "abs_rel": False, "delta1": True}

    def __init__(self, head: DepthHead, samples: DepthSamples) -> None:
        self.head, self.samples = head, samples
        self.protocol = DepthProtocol(head=DepthConfig(**dataclasses.asdict(head.config)))
        self._errors: list[dict[str, float]] = []

    def add(self, index: int, image: Image.Image, features: Map) -> None:
        truth = self.samples.dataset.depth(index)
        predicted = self.head.predict(features, (truth.shape[0], truth.shape[1]))[0].cpu().numpy()
        self._errors.append(depth_errors(self.samples.keys[index], predicted, truth, self.protocol))

    def scores(self) -> dict[str, float]:
        errors, self._errors = self._errors, []
        names = {"rmse": "RMSE", "abs_rel": "abs rel", "delta1": "delta1"}
        return {name: float(np.mean([error[key] for error in errors])) for name, key in names.items()}


class ClassScorer:
    """Mean intersection over union of the classes, and the share of pixels that are right."""

    higher_is_better: Mapping[str, bool] = {"miou": True, "pixels": True}

    def __init__(self, head: SegmentationHead, samples: ClassSamples) -> None:
        self.head, self.samples = head, samples
        self._overlaps: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, index: int, image: Image.Image, features: Map) -> None:
        truth = self.samples.dataset.labels(index)
        predicted: Int[np.ndarray, "H W"] = (
            self.head.predict(features, (truth.shape[0], truth.shape[1]))[0].cpu().numpy()
        )
        self._overlaps[self.samples.keys[index]] = overlaps(predicted, truth, len(self.samples.dataset.classes))

    def scores(self) -> dict[str, float]:
        known, self._overlaps = self._overlaps, {}
        intersections, unions = (np.array(counts) for counts in zip(*known.values(), strict=True))
        scores = overlap_scores(intersections, unions, list(known))
        return {name: estimate([score]).value for name, score in zip(("miou", "pixels"), scores, strict=True)}


class ObjectScorer:
    """Average precision of boxes, and of masks if the detector has them, as COCO or LVIS define it."""

    def __init__(self, model: DenseModel, samples: ObjectSamples, rows: Sequence[int], image_size: int) -> None:
        assert isinstance(model.head, Detector | DetrHead)
        self.model, self.head, self.samples, self.rows = model, model.head, samples, rows
        self.image_size = image_size
        self.higher_is_better: Mapping[str, bool] = {
            f"{kind}_{name}": True for kind in (KINDS if self.head.masks else ("box",)) for name in ("ap", "ap50")
        }
        self._results: dict[str, list[dict[str, Any]]] = {}

    def add(self, index: int, image: Image.Image, features: Map) -> None:
        inside = self.model.valid_sizes(image.size, self.image_size)
        (detected,) = self.head.detect(features, [self.samples.dataset.size(index)], inside)
        for kind, found in to_results(detected, self.samples.dataset, index).items():
            self._results.setdefault(kind, []).extend(found)

    def scores(self) -> dict[str, float]:
        results, self._results = self._results, {}
        dataset = self.samples.dataset
        scores: dict[str, float] = {}
        truth = dataset.truth(self.rows)
        for name, found in results.items():
            values = average_precision(truth, found, KINDS[name], dataset.lvis, resamples=0).values
            scores |= {f"{name}_ap": values["AP"], f"{name}_ap50": values["AP50"]}
        return scores
