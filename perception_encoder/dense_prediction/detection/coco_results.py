"""Collect detections in COCO's format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perception_encoder.dense_prediction.detection.mask_rcnn import Detected
from perception_encoder.files import write_json
from perception_encoder.formats.run_lengths import run_lengths


class CocoResults:
    """Images, categories and annotations with scores, as COCO's JSON; ids begin with 1."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, name: str, size: tuple[int, int], detected: Detected) -> list[dict[str, Any]]:
        """Add an image of `size` (width, height) with its detections; return the annotations."""
        image = len(self.images) + 1
        self.images.append({"id": image, "file_name": name, "width": size[0], "height": size[1]})
        rows: list[dict[str, Any]] = []
        for number, (box, label, score) in enumerate(
            zip(detected.boxes.tolist(), detected.labels.tolist(), detected.scores.tolist(), strict=True)
        ):
            left, top, right, bottom = box
            row = {
                "id": len(self.annotations) + len(rows) + 1,
                "image_id": image,
                "category_id": label,
                "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
                "area": round((right - left) * (bottom - top), 2),
                "score": round(score, 4),
                "iscrowd": 0,
            }
            if detected.masks is not None:
                mask = detected.masks[number]
                segmentation = {"size": list(mask.shape), "counts": run_lengths(mask)}
                row |= {"segmentation": segmentation, "area": int(mask.sum())}
            rows.append(row)
        self.annotations += rows
        return rows

    def write(self, path: Path) -> dict[str, Any]:
        """Write and return the whole; OutputError if it cannot be written."""
        value = {"images": self.images, "categories": self.categories, "annotations": self.annotations}
        write_json(path, value, indent=None)
        return value
