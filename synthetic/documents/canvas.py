"""A canvas that records shapes and words, so that a layout is checked before it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from synthetic.documents.fonts import Face, advance, font_of_height

Colour = tuple[int, int, int]
WordBox = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; the right and bottom edges lie behind the last pixel."""
Span = tuple[int, ...]
"""Numbers of words that belong together, such as those of an answer."""
Point = tuple[float, float]
Align = Literal["left", "middle", "right"]
SMOOTHING = 2
"""Slanted and round shapes are drawn this many times larger, then reduced."""
BLACK: Colour = (20, 20, 24)


class Word(NamedTuple):
    """A word that is drawn, and its box."""

    text: str
    box: WordBox


class TextStyle(NamedTuple):
    """How text is drawn; `height` is that of capital letters in pixels."""

    face: Face
    height: float
    colour: Colour = BLACK

    def width(self, text: str) -> float:
        """Return the width of text in pixels, without kerning."""
        return sum(advance(self.face, self.height, character) for character in text)


class _Text(NamedTuple):
    word: Word
    origin: tuple[int, int]
    style: TextStyle


class _Shape(NamedTuple):
    method: Literal["rectangle", "ellipse", "polygon", "line"]
    points: tuple[Point, ...]
    fill: Colour | None
    outline: Colour | None
    width: float
    radius: float


class Canvas:
    """A page of words on shapes; positions are pixels, and y of text is its baseline."""

    def __init__(self, width: int, height: int, paper: Colour = (255, 255, 255)) -> None:
        self.width, self.height, self.paper = width, height, paper
        self._shapes: list[_Shape] = []
        self._texts: list[_Text] = []
        self._overflows = False

    @property
    def words(self) -> list[Word]:
        """The words in the order in which they are drawn."""
        return [text.word for text in self._texts]

    def text(self, x: float, y: float, text: str, style: TextStyle, align: Align = "left") -> Span:
        """Write text from, around or up to x; returns the numbers of its words."""
        font, space = font_of_height(style.face, style.height), style.width(" ")
        extents = [(word, tuple(map(int, font.getbbox(word, anchor="ls")))) for word in text.split()]
        total = sum(right for _, (_, _, right, _) in extents) + space * (len(extents) - 1)
        x -= {"left": 0.0, "middle": total / 2, "right": total}[align]
        first = len(self._texts)
        for word, (left, top, right, bottom) in extents:
            column, row = round(x), round(y)
            box = column + left, row + top, column + right, row + bottom
            self._texts.append(_Text(Word(word, box), (column, row), style))
            x += right + space
        return tuple(range(first, len(self._texts)))

    def rectangle(
        self,
        box: Sequence[float],
        fill: Colour | None = None,
        outline: Colour | None = None,
        width: float = 1,
        radius: float = 0,
    ) -> None:
        """Draw a rectangle, with round corners of `radius` pixels."""
        self._shapes.append(_Shape("rectangle", _corners(box), fill, outline, width, radius))

    def ellipse(
        self, box: Sequence[float], fill: Colour | None = None, outline: Colour | None = None, width: float = 1
    ) -> None:
        """Draw an ellipse."""
        self._shapes.append(_Shape("ellipse", _corners(box), fill, outline, width, 0))

    def polygon(
        self, points: Sequence[Point], fill: Colour | None = None, outline: Colour | None = None, width: float = 1
    ) -> None:
        """Draw a polygon."""
        self._shapes.append(_Shape("polygon", tuple(points), fill, outline, width, 0))

    def line(self, points: Sequence[Point], colour: Colour = BLACK, width: float = 1) -> None:
        """Draw a line through points."""
        self._shapes.append(_Shape("line", tuple(points), colour, None, width, 0))

    def dots(self, left: float, right: float, y: float, colour: Colour = BLACK, dash: float = 2) -> None:
        """Draw a broken horizontal line of dashes with equal gaps."""
        for x in np.arange(left, right - dash / 2, 2 * dash).tolist():
            self.line([(x, y), (min(x + dash, right), y)], colour)

    def require(self, condition: bool) -> None:
        """Note that the layout does not fit unless the condition holds."""
        self._overflows = self._overflows or not condition

    def fits(self) -> bool:
        """Return whether all words lie on the page, a pixel from its border, no two overlap, and `require` agrees."""
        boxes = np.array([text.word.box for text in self._texts])
        if (
            self._overflows
            or not len(boxes)
            or boxes[:, :2].min() < 1
            or (boxes[:, 2:] > (self.width - 1, self.height - 1)).any()
        ):
            return False
        over = (boxes[:, None, :2] < boxes[None, :, 2:]).all(-1)
        return bool((over & over.T).sum() == len(boxes))

    def render(self, with_words: bool = True) -> Image.Image:
        """Draw the page as an RGB image."""
        scale = SMOOTHING if any(map(_is_smooth, self._shapes)) else 1
        image = Image.new("RGB", (self.width * scale, self.height * scale), self.paper)
        draw = ImageDraw.Draw(image)
        for shape in self._shapes:
            _draw_shape(draw, shape, scale)
        image = image.reduce(scale) if scale > 1 else image
        draw = ImageDraw.Draw(image)
        for text in self._texts if with_words else ():
            font = font_of_height(text.style.face, text.style.height)
            draw.text(text.origin, text.word.text, text.style.colour, font, anchor="ls")
        return image


def _corners(box: Sequence[float]) -> tuple[Point, ...]:
    return (box[0], box[1]), (box[2], box[3])


def _is_smooth(shape: _Shape) -> bool:
    """Return whether a shape has slanted or round edges."""
    (left, top), (right, bottom) = shape.points[0], shape.points[-1]
    straight = shape.method == "line" and len(shape.points) == 2 and (left == right or top == bottom)
    return not (straight or (shape.method == "rectangle" and not shape.radius))


def _draw_shape(draw: ImageDraw.ImageDraw, shape: _Shape, scale: int) -> None:
    points = [(round(x * scale), round(y * scale)) for x, y in shape.points]
    width = max(1, round(shape.width * scale)) if shape.outline or shape.method == "line" else 0
    if shape.method == "rectangle":
        inner = [points[0], (points[1][0] - 1, points[1][1] - 1)]
        draw.rounded_rectangle(inner, shape.radius * scale, shape.fill, shape.outline, width)
    elif shape.method == "ellipse":
        draw.ellipse(points, shape.fill, shape.outline, width)
    elif shape.method == "polygon":
        draw.polygon(points, shape.fill, shape.outline, width)
    else:
        draw.line(points, shape.fill, width, joint="curve")
