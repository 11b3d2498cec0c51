"""Detection by Mask R-CNN over one frozen layer (section 3): box and mask AP, as COCO or LVIS define them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from perception_encoder.datasets.instances import InstanceSet
from perception_encoder.dense_prediction.detection.detections import Detected
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectionConfig, fit_detector
from perception_encoder.dense_prediction.head_fitting import take
from perception_encoder.errors import needs_extra
from perception_encoder.evaluation.dense.average_precision import AnnotationKind, average_precision
from perception_encoder.evaluation.feature_cache import CachedTokens
from perception_encoder.evaluation.inputs import settings_digest
from perception_encoder.evaluation.layer_evaluator import HeadEvaluator
from perception_encoder.evaluation.statistics.scores import HEAD_SEEDS, Label, ResampledScores, Score
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.progress import Track, untracked

KINDS: Mapping[str, AnnotationKind] = {"box": "bbox", "mask": "segm"}


class DetectionEvaluator(HeadEvaluator):
    """Boxes of objects, and masks if both datasets have them, predicted by a detector over one layer."""

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

    def run(self, model: LayerFeatures, track: Track = untracked) -> Iterator[Score]:
        """Yield `box AP` first, then `mask AP`, each with its parts; an AP that does not exist is left out."""
        least_score, most = self.head.limits(self.train.lvis)
        label = Label(
            task=self.test.name,
            method="Mask R-CNN" if self.masks else "Faster R-CNN",
            classes=len(self.test.categories),
            settings={"channels": str(self.head.channels), "least score": f"{least_score:g}", "most": str(most)},
        )
        yield from self.fitted(model, self._digest, self._fit, label, track)

    @cached_property
    def _digest(self) -> str:
        parts = [(part.records, sorted(part.annotations.items()), part.categories) for part in (self.train, self.test)]
        return settings_digest(self.head, self.head_seeds, parts)

    def _fit(
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
            for score in average_precision(truth, found, KINDS[kind], known.lvis).scores(kind, names)
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
