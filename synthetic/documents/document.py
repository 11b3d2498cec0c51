"""Documents by seed: a kind, a layout, values, questions, and a look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError
from synthetic.documents.canvas import Canvas, Colour, Span, Word, WordBox
from synthetic.documents.layouts.bars import draw_bar_chart
from synthetic.documents.layouts.curves import draw_line_chart
from synthetic.documents.layouts.forms import draw_form
from synthetic.documents.layouts.receipts import draw_receipt
from synthetic.documents.layouts.signs import draw_sign
from synthetic.documents.layouts.tables import draw_table
from synthetic.documents.looks import LOOKS, apply_look
from synthetic.documents.page import DocumentQuestion, Page, PageContent

SPLITS = ("train", "val", "test")
"""Test has layouts, words and fonts of its own; val shares those of train, with other random numbers."""
SIDES = (128, 2048)
TEXT_HEIGHTS = (5, 200)
TRIES = 120
PAPERS: tuple[Colour, ...] = ((255, 255, 255), (255, 255, 255), (252, 251, 246), (250, 248, 240), (244, 246, 250))


class _Kind(NamedTuple):
    draw: Callable[[Page], PageContent]
    lines: tuple[int, int]
    """Least and most lines that can be asked for."""


KINDS = {
    "receipt": _Kind(draw_receipt, (1, 16)),
    "form": _Kind(draw_form, (1, 11)),
    "table": _Kind(draw_table, (2, 16)),
    "bar chart": _Kind(draw_bar_chart, (2, 12)),
    "line chart": _Kind(draw_line_chart, (2, 12)),
    "sign": _Kind(draw_sign, (1, 5)),
}
"""Kinds of documents. Lines are items of a receipt, fields of a form, rows of a table, categories of a chart."""


class Document(NamedTuple):
    """A rendered document; boxes are left, top, right and bottom in pixels of the image."""

    image: Image.Image
    kind: str
    layout: str
    look: str
    split: str
    fonts: tuple[str, ...]
    """Families, as their packages `fontpkg-NAME` are named."""
    content: dict[str, Any]
    """The printed values."""
    words: list[Word]
    questions: list[DocumentQuestion]


def document(
    seed: int | Sequence[int],
    kind: str | None = None,
    split: str = "train",
    size: int | tuple[int, int] = 448,
    *,
    look: str | None = None,
    lines: int | None = None,
    text_height: float | None = None,
) -> Document:
    """Draw the document of a seed; the same on every machine with the same versions of Pillow, NumPy and the fonts.

    kind: one of KINDS, else a random one. size: width and height in pixels, or the side of a square. look: one of
    LOOKS, else a random one; the content does not depend on it, but a print has no questions about colours. lines: see
    KINDS. text_height: of the text's capital letters in pixels, before the look; by default random, at least 7 pixels.
    Raises ConfigError for a value that is not allowed and for text that does not fit, and MissingGroupError without the
    fonts.
    """
    width, height = (size, size) if isinstance(size, int) else size
    _check(kind, split, width, height, look, text_height)
    seeds = [seed] if isinstance(seed, int) else list(seed)
    choices, content, appearance = (np.random.default_rng([*seeds, SPLITS.index(split), stream]) for stream in range(3))
    names = [list(KINDS)[int(choices.integers(len(KINDS)))], LOOKS[int(choices.integers(len(LOOKS)))]]
    kind, look = kind or names[0], look or names[1]
    least, most = KINDS[kind].lines
    if lines is not None and not least <= lines <= most:
        raise ConfigError(f"lines is {lines}; a {kind} has from {least} to {most}")
    canvas, page, drawing = _draw(kind, split, width, height, lines, text_height, content)
    image, boxes = apply_look(canvas.render(), [word.box for word in canvas.words], look, appearance)
    words = [Word(word.text, box) for word, box in zip(canvas.words, boxes, strict=True)]
    questions = [
        DocumentQuestion(item.question, item.answer, _around(item.words, boxes), item.task)
        for item in page.sample(drawing.questions, len(drawing.questions))
        if not (look == "print" and item.of_colours)
    ]
    families = tuple(dict.fromkeys(page.families))
    return Document(image, kind, drawing.layout, look, split, families, drawing.content, words, questions)


def _check(kind: str | None, split: str, width: int, height: int, look: str | None, text: float | None) -> None:
    for name, value, allowed in ("kind", kind, KINDS), ("look", look, LOOKS), ("split", split, SPLITS):
        if value not in (*allowed, *(() if name == "split" else (None,))):
            raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
    if not all(SIDES[0] <= side <= SIDES[1] for side in (width, height)):
        raise ConfigError(f"size is {width} × {height}; each side must be from {SIDES[0]} to {SIDES[1]} px")
    if text is not None and not TEXT_HEIGHTS[0] <= text <= TEXT_HEIGHTS[1]:
        raise ConfigError(f"text_height is {text}; it must be from {TEXT_HEIGHTS[0]} to {TEXT_HEIGHTS[1]} px")


def _draw(
    kind: str,
    split: str,
    width: int,
    height: int,
    lines: int | None,
    text_height: float | None,
    generator: np.random.Generator,
) -> tuple[Canvas, Page, PageContent]:
    """Draw pages until one fits; each try has fewer lines and smaller text, unless these are given."""
    paper = PAPERS[int(generator.integers(len(PAPERS)))]
    least = 7 + max(0, min(width, height) - 224) / 200
    free = min(1.0, (min(width, height) - 96) / 320)  # smaller pages begin with fewer lines and smaller text
    for number in range(TRIES):
        room = free * max(0.0, 1 - 2 * number / TRIES)
        text = text_height or float(generator.uniform(least, least * (1 + 2 * room)))
        canvas = Canvas(width, height, paper)
        page = Page(canvas, generator, split, text, lines, room, exact=text_height is not None)
        drawing = KINDS[kind].draw(page)
        if canvas.fits():
            return canvas, page, drawing
    given = "".join(f", {name} {value}" for name, value in (("lines", lines), ("text_height", text_height)) if value)
    raise ConfigError(
        f"a {kind} does not fit: {width} × {height} px{given}; use a larger size, or fewer or smaller lines"
    )


def _around(span: Span, boxes: Sequence[WordBox]) -> WordBox | None:
    """Return the box around some words; None without words."""
    if not span:
        return None
    lefts, tops, rights, bottoms = zip(*(boxes[number] for number in span), strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)
