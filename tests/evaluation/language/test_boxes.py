"""Boxes read from text in their spellings, and their overlap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.errors import DataError
from perception_encoder.evaluation.language.answers import box_iou, box_iou_accuracy, parse_box, scale_box

BOX = (100.0, 200.0, 300.0, 400.0)


@pytest.mark.parametrize(
    "text",
    [
        "[100, 200, 300, 400]",
        "[100,200,300,400]",
        "[100 200 300 400]",
        "[100;200;300;400]",
        "100 200 300 400",
        "(100,200),(300,400)",
        "(100, 200), (300, 400)",
        "<box>(100,200),(300,400)</box>",
        "[[100, 200], [300, 400]]",
        "x1=100, y1=200, x2=300, y2=400",
        "{'x1': 100, 'y1': 200, 'x2': 300, 'y2': 400}",
        '{"bbox_2d": [100, 200, 300, 400], "label": "cat"}',
        "The 2 cats are at [100, 200, 300, 400].",
        "[0.1, 0.2, 0.3, 0.4]",
        "[.1, .2, .3, .4]",
        "[100.0, 200., 300.00, 400]",
        "in 2024 100 200, box [100, 200, 300, 400]",
    ],
)
def test_spellings(text: str) -> None:
    assert parse_box(text) == pytest.approx(BOX)


@pytest.mark.parametrize(
    "text",
    ["", "no box", "[100, 200, 300]", "[-1, 2, 3, 4]", "[1, 2, 3, 4000]", "v1.2.3.4", "[100, a, 200, 300, 400]"],
)
def test_no_box(text: str) -> None:
    assert parse_box(text) is None


def test_leading_zeros_and_the_whole_image() -> None:
    assert parse_box("[000,000,999,999]") == (0, 0, 999, 999)
    assert parse_box("[0, 0, 1, 1]") == (0, 0, 1, 1)  # without a decimal point these are thousandths


@given(st.text(alphabet="[](){}<>0123456789.,; -+xy=:'\"", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    box = parse_box(text)
    assert box is None or all(0 <= value <= 1000 for value in box)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[100, 200, 300, 400]", 1),
        ("[100, 200, 300, 300]", 1),  # IoU 0.5
        ("[100, 200, 300, 299]", 0),
        ("[300, 400, 100, 200]", 0),
        ("[100, 400, 300, 200]", 0),
        ("[0, 0, 0, 0]", 0),
        ("somewhere", 0),
    ],
)
def test_accuracy(text: str, expected: float) -> None:
    assert box_iou_accuracy(text, BOX) == expected


def test_iou() -> None:
    assert box_iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert box_iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (5, 0, 1, 5), (0, 0, 5), (0, 0, 5, 2000), ()])
def test_a_bad_true_box(box: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="the true box is"):
        box_iou_accuracy("[1, 2, 3, 4]", box)


def test_pixels_become_thousandths() -> None:
    assert scale_box((50, 25, 100, 80), 200, 100) == (250, 250, 500, 800)
    assert scale_box((-3, 0, 200, 100), 200, 100) == (0, 0, 999, 999)
