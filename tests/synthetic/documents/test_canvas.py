"""The canvas: words with boxes, alignment, and pages that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from synthetic.documents.canvas import Canvas, TextStyle
from synthetic.documents.fonts import FAMILIES, Face

STYLE = TextStyle(Face(FAMILIES[0]), 12)


def test_text_is_split_into_words_from_left_to_right() -> None:
    canvas = Canvas(200, 60)
    assert canvas.text(10, 30, "two small words", STYLE) == (0, 1, 2)
    assert canvas.text(10, 50, "more", STYLE) == (3,)
    assert [word.text for word in canvas.words] == ["two", "small", "words", "more"]
    edges = [edge for word in canvas.words[:3] for edge in (word.box[0], word.box[2])]
    assert edges == sorted(edges) and canvas.fits()


@pytest.mark.parametrize("align", ["left", "middle", "right"])
def test_alignment(align) -> None:
    canvas = Canvas(300, 60)
    canvas.text(150, 40, "some words", STYLE, align)
    left, right = canvas.words[0].box[0], canvas.words[-1].box[2]
    anchor = {"left": left, "middle": (left + right) / 2, "right": right}[align]
    assert abs(anchor - 150) <= 2


def test_words_that_overlap_or_leave_the_page_do_not_fit() -> None:
    def page(*places: tuple[float, float]) -> Canvas:
        canvas = Canvas(120, 60)
        for x, y in places:
            canvas.text(x, y, "word", STYLE)
        return canvas

    assert page((10, 30), (10, 50)).fits() and page((10, 30), (60, 30)).fits()
    assert not page((10, 30), (20, 35)).fits()
    assert not page((100, 30)).fits() and not page((10, 5)).fits() and not page((-5, 30)).fits()
    assert not page().fits()
    canvas = page((10, 30))
    canvas.require(True)
    assert canvas.fits()
    canvas.require(False)
    canvas.require(True)
    assert not canvas.fits()


def test_shapes_are_below_the_words_and_smooth() -> None:
    canvas = Canvas(100, 40, paper=(255, 255, 255))
    canvas.text(10, 30, "I", STYLE)
    canvas.rectangle((0, 0, 100, 40), fill=(200, 0, 0))
    image = np.asarray(canvas.render())
    left, top, right, bottom = canvas.words[0].box
    assert (image[top:bottom, left:right].min((0, 1)) < 60).all() and tuple(image[0, 99]) == (200, 0, 0)
    assert (np.asarray(canvas.render(with_words=False)) == (200, 0, 0)).all()
    canvas.line([(0, 0), (100, 40)], (0, 0, 200), 3)
    assert len(np.unique(np.asarray(canvas.render(with_words=False))[..., 0])) > 2  # tones between both colours


def test_straight_shapes_have_sharp_edges() -> None:
    canvas = Canvas(100, 40)
    canvas.rectangle((10, 5, 30, 20), fill=(0, 0, 0))
    canvas.dots(40, 80, 20, (0, 0, 0), dash=4)
    pixels = np.asarray(canvas.render())[..., 0]
    assert set(np.unique(pixels)) == {0, 255}
    assert (pixels[5:20, 10:30] == 0).all() and (pixels[:, 31:39] == 255).all()
    assert 0.4 < (pixels[20, 40:80] == 0).mean() < 0.8
