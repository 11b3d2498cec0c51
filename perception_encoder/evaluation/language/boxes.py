"""Grounding: the box that a model writes for a phrase, and whether it overlaps the true one by half.

Boxes are `[x, y, x, y]`: left, top, right and bottom in thousandths of the image's width and height, 000–999, as
Perception Encoder's alignment and PLM write them. Source of the metric: Yu et al., "Modeling Context in Referring
Expressions" (RefCOCO), ECCV 2016.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from perception_encoder.datasets.questions.question import Corners
from perception_encoder.errors import DataError

LARGEST = 1000.0
"""Corners beyond this are pixels or another scale, not thousandths."""
IOU = 0.5
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_BETWEEN = r"\s*[)\]}>]*[\s,;]+[(\[{<]*\s*"  # numbers: commas, spaces, or the parentheses of two corners
_LABELLED = rf"(?:[\"']?[xy]\w*[\"']?\s*[:=]\s*)?({_NUMBER})"
_BARE = rf"(?<![\w.+-]){_BETWEEN.join([_LABELLED] * 4)}(?!\.?\d)"
_BOXES = (re.compile(rf"[(\[{{<]\s*{_BARE}"), re.compile(_BARE))
"""Boxes in brackets, which count before any other numbers."""


def parse_box(text: str) -> Corners | None:
    """Return the first four numbers in a row as a box in thousandths, those in brackets first; None without a box.

    "[100, 200, 300, 400]", "[100,200,300,400]", "(100,200),(300,400)", "100 200 300 400" and
    "x1=100, y1=200, x2=300, y2=400" are the same. Four numbers up to 1 of which one has a decimal point are fractions
    of the image. A number below 0 or above 1000 is of another scale, so the text then has no box.
    """
    match = next((match for pattern in _BOXES if (match := pattern.search(text))), None)
    if match is None:
        return None
    values = [float(number) for number in match.groups()]
    if max(values) <= 1 and any("." in number for number in match.groups()):
        values = [1000 * value for value in values]
    if min(values) < 0 or max(values) > LARGEST:
        return None
    left, top, right, bottom = values
    return left, top, right, bottom


def scale_box(box: Sequence[float], width: int, height: int) -> Corners:
    """Return a box in pixels as thousandths of an image of this size, at most 999, not rounded."""
    left, top, right, bottom = (
        min(max(1000 * value / side, 0.0), 999.0) for value, side in zip(box, (width, height) * 2, strict=True)
    )
    return left, top, right, bottom


def box_iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection over union of two boxes of one scale, in [0, 1]; a box without area overlaps nothing."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:  # a box with swapped corners ends here too
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (areas - width * height)


def box_iou_accuracy(prediction: str, box: Sequence[float]) -> float:
    """Return 1 if the IoU of the predicted box with the true one, see `predicted_iou`, is at least 0.5, else 0."""
    return float(predicted_iou(prediction, box) >= IOU)


def predicted_iou(prediction: str, box: Sequence[float]) -> float:
    """Return the IoU of the predicted box with the true one, in [0, 1].

    `box`: left, top, right, bottom, in thousandths as the prediction. A prediction without a box, or with swapped
    corners, scores 0. Raises DataError for a true box without area, or that is not four numbers within 0 and 1000.
    """
    if len(box) != 4 or not (0 <= box[0] < box[2] <= LARGEST and 0 <= box[1] < box[3] <= LARGEST):
        raise DataError(f"the true box is {list(box)}; it must be [x, y, x, y] in thousandths, with an area")
    predicted = parse_box(prediction)
    return 0.0 if predicted is None else box_iou(predicted, box)
