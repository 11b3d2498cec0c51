"""Detections: suppress duplicates, join the views of an image, and collect them in COCO's format."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from operator import eq
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from perception_encoder.datasets.instances import file_name, read_annotations, read_images
from perception_encoder.errors import DataError, InputError
from perception_encoder.files import write_json
from perception_encoder.formats.entries import integer_field, list_objects, text_field
from perception_encoder.preprocess.source import escape_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Detected:
    """The objects detected in an image, best first; boxes are in its stored pixels."""

    boxes: np.ndarray
    """(m, 4) float32: left, top, right, bottom."""
    labels: np.ndarray
    """(m,) int64, from 1."""
    scores: np.ndarray
    """(m,) float32."""
    masks: np.ndarray | None
    """(m, H, W) bool."""

    def select(self, rows: np.ndarray) -> Detected:
        """Return the detections at these indices, or where a bool mask is true."""
        masks = None if self.masks is None else self.masks[rows]
        return Detected(self.boxes[rows], self.labels[rows], self.scores[rows], masks)

    def above(self, score: float) -> Detected:
        return self.select(self.scores >= score)


SOFTEST = 0.001  # soft-NMS drops detections whose score falls to this


def suppress(
    boxes: Float[Tensor, "n 4"],
    scores: Float[Tensor, " n"],
    labels: Int[Tensor, " n"],
    overlap: float,
    soft: float | None = None,
    least: float = 0.0,
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """Return the indices of the remaining detections, best first, with their scores; classes do not affect each other.

    Args:
        overlap: IoU above which the worse of two is dropped.
        soft: Multiply its score by (1 - IoU) to this power instead (the published scripts' "quad" and its
            `quad_scale`), and drop it at 0.001.
        least: Minimum score of what remains.
    """
    from torchvision.ops import batched_nms

    if soft is None:
        rows = batched_nms(boxes, scores, labels, overlap)
    else:
        scores = scores.clone()
        for label in labels.unique():
            group = labels == label
            scores[group] = _soften(boxes[group], scores[group], overlap, soft)
        rows = scores.argsort(descending=True, stable=True)
        rows = rows[scores[rows] > SOFTEST]
    rows = rows[scores[rows] >= least]
    return rows, scores[rows]


def _soften(boxes: Tensor, scores: Tensor, overlap: float, exponent: float) -> Tensor:
    from torchvision.ops import box_iou

    left = scores > SOFTEST
    while left.any():
        best = int(torch.where(left, scores, -1.0).argmax())
        left[best] = False
        shared = box_iou(boxes[best : best + 1], boxes)[0]
        scores = torch.where(left & (shared > overlap), scores * (1 - shared) ** exponent, scores)
        left &= scores > SOFTEST
    return scores


def join_views(views: Sequence[Detected], overlap: float, soft: float | None) -> Detected:
    """Join the detections of several views of an image, without masks; for `soft` see `suppress`."""
    boxes, scores, labels = (
        np.concatenate(parts) for parts in zip(*((v.boxes, v.scores, v.labels) for v in views), strict=True)
    )
    tensors = torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels)
    rows, lowered = (found.numpy() for found in suppress(*tensors, overlap, soft))
    return Detected(boxes[rows], labels[rows], lowered, None)


def mirrored(detected: Detected, width: int) -> Detected:
    """Return the detections of a mirrored image of `width` pixels in the coordinates of the original, without masks."""
    boxes = detected.boxes.copy()
    boxes[:, [0, 2]] = width - detected.boxes[:, [2, 0]]
    return Detected(boxes, detected.labels, detected.scores, None)


RESULTS = ("image_id", "category_id", "bbox", "score")
"""Fields of an entry in COCO's result list, besides its mask."""


class CocoResults:
    """Collects images, categories and annotations with scores, for COCO's JSON and its plain result list."""

    def __init__(
        self, categories: Sequence[dict[str, Any]], files: Mapping[str, str], annotations: Path | None = None
    ) -> None:
        """Number the images, whose paths `files` gives by name; `categories` are in the order of a detector's labels.

        `annotations`: COCO's JSON to take the ids from, which lists each image once, else DataError; without it images
        have the numbers that are their names, as in COCO, if all are distinct numbers, else 1, 2, 3 ….
        """
        self.categories, self.source = list(categories), annotations
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self._listed: dict[str, dict[str, Any]] = {}
        if annotations is not None:
            self._listed = match_images(files, annotations)
            self._ids = {name: image["id"] for name, image in self._listed.items()}
            known = {name: number for number, name in read_categories(annotations)}
            if missing := [item["name"] for item in categories if item["name"] not in known]:
                text = "the detector's class ids are written: %s has no category called %s"
                logger.warning(text, escape_name(annotations), ", ".join(missing[:5]))
            else:
                self.categories = [{**item, "id": known[item["name"]]} for item in categories]
        else:
            stems = [PurePosixPath(name).stem for name in files]
            numbers = [int(stem) for stem in stems if stem.isascii() and stem.isdecimal()]
            self._ids = dict(zip(files, numbers, strict=True)) if len(set(numbers)) == len(files) else {}
        self._free = count(1 + max(self._ids.values(), default=0))

    def add(self, name: str, size: tuple[int, int], detected: Detected, time: float | None = None) -> None:
        """Add an image of `size` (width, height), or a frame at a `time`, with its detections.

        InputError if its size is not that of its annotations.
        """
        listed = self._listed.get(name)
        if listed is not None and (listed["width"], listed["height"]) != size:
            expected = f"{listed['width']}x{listed['height']}"
            raise InputError(name, f"is {size[0]}x{size[1]} pixels, but its annotations are for {expected}")
        image = self._ids[name] if name in self._ids else next(self._free)
        entry = {"id": image, "file_name": name, "width": size[0], "height": size[1]}
        self.images.append(entry if time is None else {**entry, "time": time})
        for number, (box, label, score) in enumerate(
            zip(detected.boxes.tolist(), detected.labels.tolist(), detected.scores.tolist(), strict=True)
        ):
            left, top, right, bottom = box
            row: dict[str, Any] = {
                "id": len(self.annotations) + 1,
                "image_id": image,
                "category_id": self.categories[label - 1]["id"],
                "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
                "area": round((right - left) * (bottom - top), 2),
                "score": round(score, 6),
                "iscrowd": 0,
            }
            result = {name: row[name] for name in RESULTS}
            if detected.masks is not None:
                mask = detected.masks[number]
                result["segmentation"] = {"size": list(mask.shape), "counts": run_lengths(mask)}
                row |= {"area": int(mask.sum())} | ({"segmentation": outlines(mask)} if mask.any() else {})
            self.annotations.append(row)
            self.results.append(result)

    def write(self, directory: Path) -> None:
        """Write detections.json, with masks as polygons, and results.json, with exact ones; OutputError."""
        value = {"images": self.images, "categories": self.categories, "annotations": self.annotations}
        write_json(directory / "detections.json", value, indent=None)
        write_json(directory / "results.json", self.results, indent=None)
        if self.source is None and self.images:
            numbers = "by their names" if self._ids else f"1 to {len(self.images)}"
            logger.info("images are numbered %s; give --images ANNOTATIONS to use the ids of your annotations", numbers)


def match_images(files: Mapping[str, str], annotations: Path) -> dict[str, dict[str, Any]]:
    """Return the entry of each image in COCO's annotations, by name; `files`: the images' paths by name.

    Of several entries with its file name, an image's is the one that shares the most directories with its path.
    DataError for an image without an entry, or with several, and for two images with the same.
    """
    listed: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for image in read_images(annotations):
        listed[PurePosixPath(file_name(image)).name].append(image)
    found, owners = dict[str, dict[str, Any]](), dict[int, str]()
    for name, path in files.items():
        parts = Path(os.path.abspath(path)).parts[::-1]
        shared = [
            (sum(1 for _ in takewhile(bool, map(eq, parts, PurePosixPath(file_name(image)).parts[::-1]))), image)
            for image in listed[parts[0]]
        ]
        best = [image for length, image in shared if length == max(length for length, _ in shared)]
        if len(best) != 1:
            several = f"several images like it: {', '.join(map(file_name, best[:3]))}" if best else "no such image"
            raise DataError(f"{path}: {annotations} lists {several}; give images that it lists, under their names")
        found[name] = best[0]
        if (other := owners.setdefault(best[0]["id"], path)) != path:
            raise DataError(f"{other} and {path} are both {file_name(best[0])} of {annotations}; give one of them")
    return found


def read_categories(path: Path) -> list[tuple[int, str]]:
    """Read the ids and names of classes from annotations in COCO's format; DataError for another file."""
    entries = list_objects(read_annotations(path), "categories", path)
    where = f"{path}: categories"
    return sorted((integer_field(entry, "id", where), text_field(entry, "name", where)) for entry in entries)


def outlines(mask: Bool[np.ndarray, "H W"]) -> list[list[int]]:
    """Return the outlines of a mask's parts along the edges of pixels, each as x, y, x, y, …, without holes."""
    inside = np.pad(mask, 1)
    neighbours = inside[:-2, 1:-1], inside[1:-1, 2:], inside[2:, 1:-1], inside[1:-1, :-2]  # above, right, below, left
    starts, steps = ((0, 0), (0, 1), (1, 1), (1, 0)), ((0, 1), (1, 0), (0, -1), (-1, 0))  # clockwise around a pixel
    edges: set[tuple[int, int, int]] = set()
    for direction, (neighbour, start) in enumerate(zip(neighbours, starts, strict=True)):
        found = np.argwhere(mask & ~neighbour) + start
        edges.update((row, column, direction) for row, column in found.tolist())
    outer, seen = list[list[int]](), set[tuple[int, int, int]]()
    for first in sorted(edges):
        if first in seen:
            continue
        points, edge = list[int](), first
        while edge not in seen:
            seen.add(edge)
            row, column, direction = edge[0] + steps[edge[2]][0], edge[1] + steps[edge[2]][1], edge[2]
            turns = ((row, column, (direction + turn) % 4) for turn in (1, 0, 3))  # right first: parts touch at corners
            edge = next(turn for turn in turns if turn in edges)
            if edge[2] != direction:
                points += [column, row]
        if first[2] == 0:  # the topmost edge of a hole leads down
            outer.append(points)
    return outer


def run_lengths(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """Return the lengths of a mask's alternating runs of 0 and 1, column by column."""
    flat = mask.T.ravel()
    ends = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    lengths = [int(length) for length in np.diff(ends)]
    return [0, *lengths] if flat[0] else lengths
