"""Doubles among detections: dropped, or lowered in score (soft-NMS); detections of several views of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from perception_encoder.datasets.class_names import read_class_names
from perception_encoder.datasets.coco_annotations import file_name, read_annotations
from perception_encoder.files import write_json
from perception_encoder.formats.entries import integer_field, list_objects, read_json, text_field


@dataclass(frozen=True)
class Detected:
    """The detections of an image, best first, in its stored pixels."""

    boxes: np.ndarray
    """(m, 4) float32: left, top, right, bottom."""
    labels: np.ndarray
    """(m,) int64, from 1."""
    scores: np.ndarray
    """(m,) float32."""
    masks: np.ndarray | None
    """(m, H, W) bool."""

    def above(self, score: float) -> Detected:
        """Return the detections of at least this score."""
        good = self.scores >= score
        masks = None if self.masks is None else self.masks[good]
        return Detected(self.boxes[good], self.labels[good], self.scores[good], masks)


QUAD = 0.5
"""Factor of the quadratic by which soft-NMS lowers scores."""


def suppress(
    boxes: Float[Tensor, "n 4"],
    scores: Float[Tensor, " n"],
    labels: Int[Tensor, " n"],
    overlap: float,
    soft: bool = False,
    least: float = 0.0,
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """Return which detections stay, best first, and their scores; only those of one class are compared.

    `overlap`: IoU from which the worse of two is dropped; with `soft` its score is multiplied by (1 - IoU²) / 2
    instead. Those of a score below `least` are dropped. The published scripts name this method "quad", of scale 0.5
    above an IoU of 0.7; its formula was not at hand, so this one is ours.
    """
    from torchvision.ops import batched_nms

    if not soft:
        rows = batched_nms(boxes, scores, labels, overlap)
        rows = rows[scores[rows] >= least]
        return rows, scores[rows]
    groups = [torch.nonzero(labels == each)[:, 0] for each in labels.unique()]
    lowered = torch.cat([_soften(boxes, scores, rows, overlap) for rows in groups] or [scores])
    order = torch.cat(groups or [labels])
    best = lowered.argsort(descending=True, stable=True)
    best = best[lowered[best] >= least]
    return order[best], lowered[best]


def _soften(boxes: Tensor, scores: Tensor, rows: Tensor, overlap: float) -> Tensor:
    """The lowered scores of one class's detections, in the order of `rows`."""
    from torchvision.ops import box_iou

    overlaps, own = box_iou(boxes[rows], boxes[rows]), scores[rows].clone()
    left = torch.ones_like(own, dtype=torch.bool)
    for _ in range(len(own)):
        best = int(torch.where(left, own, -1.0).argmax())
        left[best] = False
        lowered = own * QUAD * (1 - overlaps[best] ** 2)
        own = torch.where(left & (overlaps[best] > overlap), lowered, own)
    return own


def join_views(views: Sequence[Detected], overlap: float, soft: bool, most: int) -> Detected:
    """Join the detections of several views of an image, such as scales and a mirrored one, without masks."""
    boxes = np.concatenate([each.boxes for each in views])
    scores = np.concatenate([each.scores for each in views])
    labels = np.concatenate([each.labels for each in views])
    tensors = torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels)
    rows, own = suppress(*tensors, overlap, soft)
    rows, own = rows[:most], own[:most]
    return Detected(boxes[rows.numpy()], labels[rows.numpy()], own.numpy(), None)


def large(detected: Detected, side: float) -> Detected:
    """Return the detections of an area above a square's of this side, in stored pixels."""
    width, height = (detected.boxes[:, 2:] - detected.boxes[:, :2]).T
    good = width * height > side**2
    masks = None if detected.masks is None else detected.masks[good]
    return Detected(detected.boxes[good], detected.labels[good], detected.scores[good], masks)


def mirrored(detected: Detected, width: int) -> Detected:
    """Return the detections of a mirrored image of `width` pixels as those of the image."""
    boxes = detected.boxes.copy()
    boxes[:, [0, 2]] = width - detected.boxes[:, [2, 0]]
    masks = None if detected.masks is None else detected.masks[:, :, ::-1]
    return Detected(boxes, detected.labels, detected.scores, masks)


RESULTS = ("image_id", "category_id", "bbox", "score", "segmentation")
"""Fields of an entry in COCO's list of results."""


class CocoResults:
    """Images, categories and annotations with scores, as COCO's JSON, and as its plain list of results."""

    def __init__(self, categories: Sequence[dict[str, Any]], image_ids: Mapping[str, int] | None = None) -> None:
        """`categories`: `id` and `name`, in the order of a detector's labels. `image_ids`: of the dataset's images, by
        their file names; other images, and all images without it, are numbered."""
        self.categories, self.image_ids = list(categories), image_ids
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self._next = 1 + max((image_ids or {}).values(), default=0)

    def add(self, name: str, size: tuple[int, int], detected: Detected) -> list[dict[str, Any]]:
        """Add an image of `size` (width, height) with its detections; return the annotations."""
        image = self._image_id(name)
        self.images.append({"id": image, "file_name": name, "width": size[0], "height": size[1]})
        rows: list[dict[str, Any]] = []
        for number, (box, label, score) in enumerate(
            zip(detected.boxes.tolist(), detected.labels.tolist(), detected.scores.tolist(), strict=True)
        ):
            left, top, right, bottom = box
            row = {
                "id": len(self.annotations) + len(rows) + 1,
                "image_id": image,
                "category_id": self.categories[label - 1]["id"],
                "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
                "area": round((right - left) * (bottom - top), 2),
                "score": round(score, 6),
                "iscrowd": 0,
            }
            if detected.masks is not None:
                mask = detected.masks[number]
                segmentation = {"size": list(mask.shape), "counts": run_lengths(mask)}
                row |= {"segmentation": segmentation, "area": int(mask.sum())}
            rows.append(row)
        self.annotations += rows
        return rows

    def _image_id(self, name: str) -> int:
        known = self.image_ids or {}
        own = known.get(name, known.get(PurePosixPath(name).name))
        if own is None:
            own, self._next = self._next, self._next + 1
        return own

    def write(self, path: Path, results: Path) -> dict[str, Any]:
        """Write the whole to `path` and the list to `results`; return the former. OutputError if that fails."""
        value = {"images": self.images, "categories": self.categories, "annotations": self.annotations}
        write_json(path, value, indent=None)
        rows = [{name: each[name] for name in RESULTS if name in each} for each in self.annotations]
        write_json(results, rows, indent=None)
        return value


def read_image_ids(file: Path) -> dict[str, int]:
    """Return the ids of the images of annotations, by their file names, and by those without directories if each has
    its own; DataError for other files."""
    ids: dict[str, int] = {}
    names: dict[str, list[int]] = {}
    for index, image in enumerate(list_objects(read_annotations(file), "images", file)):
        where = f"{file}: images[{index}]"
        if not image.get("file_name"):
            text_field(image, "coco_url", where)  # LVIS's
        key = file_name(image)
        ids[key] = integer_field(image, "id", where)
        names.setdefault(PurePosixPath(key).name, []).append(ids[key])
    return {name: own[0] for name, own in names.items() if len(own) == 1} | ids


def read_categories(path: Path) -> list[tuple[int, str]]:
    """Read ids and names of classes: from annotations in COCO's format, or a list with one name a line, from 1."""
    value = read_json(path) if path.suffix.lower() == ".json" else None
    if not isinstance(value, dict) or "categories" not in value:
        return list(enumerate(read_class_names(str(path)).names, start=1))
    where = f"{path}: categories"
    entries = list_objects(value, "categories", path)
    return sorted((integer_field(entry, "id", where), text_field(entry, "name", where)) for entry in entries)


def numbered_names(names: Sequence[str]) -> dict[str, int] | None:
    """Return the numbers that images are named by, as COCO's are by their ids; None if one is not, or two are equal."""
    stems = [PurePosixPath(name).stem for name in names]
    if not all(stem.isascii() and stem.isdecimal() for stem in stems) or len({int(stem) for stem in stems}) < len(
        stems
    ):
        return None
    return {name: int(stem) for name, stem in zip(names, stems, strict=True)}


def run_lengths(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """Return the lengths of a mask's runs: down the columns, alternately of 0 and of 1, from 0."""
    flat = mask.T.ravel()
    ends = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    lengths = [int(length) for length in np.diff(ends)]
    return [0, *lengths] if flat[0] else lengths
