"""What a layout draws with: a canvas, its size and text height, and random choices of its split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from synthetic.documents.canvas import BLACK, Canvas, Colour, Span, TextStyle, WordBox
from synthetic.documents.fonts import Face, FontStyle, families_of
from synthetic.documents.vocabulary import vocabulary

T = TypeVar("T")


class DocumentQuestion(NamedTuple):
    """A question about a document, its short answer, the answer's box if it is printed, and the task's name."""

    question: str
    answer: str
    answer_box: WordBox | None
    task: str


class PageQuestion(NamedTuple):
    """A question on a page that is not drawn yet; `words`: the numbers of the answer's words."""

    question: str
    answer: str
    words: Span
    task: str
    of_colours: bool = False
    """It cannot be answered from a grey print."""


class PageContent(NamedTuple):
    """What a layout drew: its name, the values that are printed, and questions about them."""

    layout: str
    content: dict[str, Any]
    questions: list[PageQuestion]


class Page:
    """A page of one document: `height` is that of its text's capital letters, in pixels.

    `lines`: their number, if it is given. `room`: from 1 in the first try down to 0. `exact`: the height is given.
    """

    def __init__(
        self,
        canvas: Canvas,
        generator: np.random.Generator,
        split: str,
        height: float,
        lines: int | None,
        room: float,
        exact: bool,
    ) -> None:
        self.canvas, self.generator, self.split, self.height = canvas, generator, split, height
        self._lines, self._room, self.exact = lines, room, exact
        self.margin = 0.045 * min(canvas.width, canvas.height)
        self.families: list[str] = []

    def style(self, *styles: FontStyle) -> TextStyle:
        """Choose a family of one of these styles; returns its regular face at the page's text height."""
        family = self.choose(families_of(self.split, *styles))
        self.families.append(family.name)
        return TextStyle(Face(family), self.height)

    def count(self, least: int, most: int) -> int:
        """Return the number of lines asked for; without one a random number, smaller ones if a try did not fit."""
        return self._lines or self.integer(least, max(least, round(least + (most - least) * self._room)))

    def integer(self, least: int, most: int) -> int:
        """Return a random number from `least` to `most`, both included."""
        return int(self.generator.integers(least, most + 1))

    def uniform(self, least: float, most: float) -> float:
        """Return a random number from `least` to `most`."""
        return float(self.generator.uniform(least, most))

    def chance(self, probability: float = 0.5) -> bool:
        """Return True with a probability."""
        return bool(self.generator.random() < probability)

    def choose(self, options: Sequence[T]) -> T:
        """Choose one of the options."""
        return options[int(self.generator.integers(len(options)))]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """Choose different options in random order; `count` of them, or all if there are fewer."""
        return [options[number] for number in self.generator.permutation(len(options))[:count]]

    def layout(self, layouts: tuple[tuple[str, ...], tuple[str, ...]]) -> str:
        """Choose a layout; `layouts`: those of train and val, and those of test."""
        return self.choose(layouts[self.split == "test"])

    def words(self, category: str, count: int) -> list[str]:
        """Choose different entries of a category of the vocabulary."""
        return self.sample(vocabulary(category, self.split), count)

    def word(self, category: str) -> str:
        """Choose an entry of a category of the vocabulary."""
        return self.words(category, 1)[0]

    def yes_or_no(self, pairs: tuple[str, str], task: str = "yes_no") -> PageQuestion:
        """Ask one of two questions, of which the first is answered by yes and the second by no."""
        yes = self.chance()
        return PageQuestion(pairs[not yes], answer_of(yes), (), task)


def answer_of(yes: bool) -> str:
    """Return yes or no."""
    return "yes" if yes else "no"


def bolder(style: TextStyle, scale: float = 1.0) -> TextStyle:
    """Return the bold face of a style, `scale` times as high."""
    return style._replace(face=style.face._replace(bold=True), height=style.height * scale)


def title_case(style: TextStyle, text: str) -> str:
    """Return the text as a face shows it: in capitals if it has no small letters."""
    return text.upper() if style.face.family.capitals else text


INKS: tuple[Colour, ...] = (BLACK, (30, 40, 90), (60, 60, 66), (70, 30, 30), (20, 60, 50))
"""Dark colours of text."""
