"""Detection by Mask R-CNN over one frozen layer (section 3): box and mask AP, as COCO or LVIS define them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from perception_encoder.datasets.instances import InstanceSet
from perception_encoder.dense_prediction.detection.detections import Detected
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectionConfig, fit_detector
from perception_encoder.dense_prediction.head_fitting import Maps, take
from perception_encoder.errors import MissingExtraError
from perception_encoder.evaluation.dense.average_precision import AnnotationKind, average_precision
from perception_encoder.evaluation.feature_cache import CachedTokens
from perception_encoder.evaluation.inputs import check_maps, settings_digest
from perception_encoder.evaluation.layer_evaluator import HeadEvaluator, check_rows
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.scores import (
    HEAD_SEEDS,
    ResampledScores,
    check_head_seeds,
    with_head_seeds,
)
from perception_encoder.progress import Track, untracked

KINDS: Mapping[str, AnnotationKind] = {"box": "bbox", "mask": "segm"}


@dataclass(frozen=True, kw_only=True)
class DetectionProtocol:
    """How detection is evaluated."""

    head: DetectionConfig = field(default_factory=DetectionConfig)
    head_seeds: int = HEAD_SEEDS
    """Detectors to fit, each with its own seed; one gives no interval."""

    def __post_init__(self) -> None:
        check_head_seeds(self.head_seeds)


class DetectionEvaluator(HeadEvaluator):
    """Boxes and masks of objects, predicted by a detector over one layer."""

    def __init__(
        self,
        train: InstanceSet,
        test: InstanceSet,
        protocol: DetectionProtocol | None = None,
        image_size: tuple[int, int] | None = None,
        name: str = "detection",
    ) -> None:
        super().__init__(name, (train, train.instances), (test, test.instances), image_size)
        self.train, self.test = train, test
        self.protocol = protocol or DetectionProtocol()

    @cached_property
    def digest(self) -> str:
        """Digest of the annotations and the settings."""
        parts = [(part.records, sorted(part.annotations.items()), part.categories) for part in (self.train, self.test)]
        return settings_digest(self.protocol, parts)

    def score(self, features: Iterable[CachedTokens], track: Track = untracked) -> Measurement:
        """Fit and test detectors: box AP first, then mask AP if there are masks."""
        train, test = check_rows(self.name, features)
        scores = score_detection(
            train.patches, (self.train, train.rows), test.patches, (self.test, test.rows), self.protocol, track
        )
        least_score, most = self.protocol.head.limits(self.train.lvis)
        return Measurement(
            task=self.test.name,
            method="Mask R-CNN" if any(score.metric.startswith("mask") for score in scores) else "Faster R-CNN",
            classes=len(self.test.categories),
            settings={
                "layer": str(test.layer),
                "train": str(len(train.rows)),
                "channels": str(self.protocol.head.channels),
                "least score": f"{least_score:g}",
                "most": str(most),
                "head seeds": str(self.protocol.head_seeds),
            },
            scores=scores,
        )


def score_detection(
    train: Maps,
    train_set: tuple[InstanceSet, np.ndarray],
    test: Maps,
    test_set: tuple[InstanceSet, np.ndarray],
    protocol: DetectionProtocol | None = None,
    track: Track = untracked,
) -> tuple[ResampledScores, ...]:
    """Fit on some images' features and test on others: `box AP` first, then `mask AP` if both datasets have masks.

    Each head seed has its own scores; an AP that does not exist is left out. With each dataset: the indices of the
    features' images, (n,). ModelError for features that are not finite.
    """
    protocol = protocol or DetectionProtocol()
    known, rows = test_set
    names = [known.keys[int(row)] for row in rows]
    check_maps(train, "detection, training images")
    check_maps(test, "detection", names)
    masks = train_set[0].has_masks and known.has_masks
    truth = known.truth(rows)

    def score(seed: int) -> list[ResampledScores]:
        config = replace(protocol.head, fit=protocol.head.fit.with_seed(seed))
        detector = fit_detector(train, *train_set, masks, config, track)
        results: dict[str, list[dict[str, Any]]] = {"box": [], **({"mask": []} if masks else {})}
        for index, row in enumerate(track(rows, "detecting", len(rows))):
            (detected,) = detector.detect(take(test, slice(index, index + 1)), [known.size(int(row))])
            for kind, some in to_results(detected, known, int(row)).items():
                results[kind] += some
        return [
            item
            for name, kind in KINDS.items()
            if name in results
            for item in average_precision(truth, results[name], kind, known.lvis).scores(name, names)
        ]

    return with_head_seeds(protocol.head_seeds, score)


def to_results(detected: Detected, images: InstanceSet, row: int) -> dict[str, list[dict[str, Any]]]:
    """Return an image's detections in COCO's results format: `box`, and `mask` if there are masks."""
    image = images.records[row]["id"]
    numbers = [images.categories[label - 1]["id"] for label in detected.labels.tolist()]
    corners = detected.boxes.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    rest = [
        {"image_id": image, "category_id": number, "score": score}
        for number, score in zip(numbers, detected.scores.tolist(), strict=True)
    ]
    results = {"box": [{**item, "bbox": box} for item, box in zip(rest, boxes, strict=True)]}
    if detected.masks is not None:
        encode = _encoder()
        results["mask"] = [
            {**entry, "segmentation": encode(mask)} for entry, mask in zip(rest, detected.masks, strict=True)
        ]
    return results


def _encoder() -> Callable[[np.ndarray], dict[str, Any]]:
    """Return a function that encodes a mask as COCO run lengths."""
    try:
        from faster_coco_eval.core import mask
    except ImportError:
        raise MissingExtraError("faster-coco-eval", "eval") from None
    return lambda pixels: mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
