"""Tables: a header, rows of a name and values."""

from __future__ import annotations

from typing import NamedTuple

from synthetic.documents.canvas import Align, Colour, Span, TextStyle
from synthetic.documents.page import INKS, Page, PageContent, PageQuestion, bolder
from synthetic.documents.vocabulary import vocabulary

LAYOUTS = (("ruled", "striped", "grid"), ("open", "dark header"))
"""Layouts of train and val, and those of test."""
TINTS: tuple[Colour, ...] = ((226, 236, 246), (238, 238, 232), (230, 242, 230), (246, 234, 226))
PITCH = 2.3
"""Height of a row, in heights of capital letters."""


class _Subject(NamedTuple):
    category: str
    """Of the names in the first column."""
    key: str
    """Header of the first column."""
    texts: tuple[tuple[str, str], ...]
    """Headers of columns of text, with the category of their entries."""
    numbers: tuple[tuple[str, int, int], ...]
    """Headers of columns of numbers, with the least and the largest."""


SUBJECTS = (
    _Subject("first name", "Name", (("City", "city"), ("Job", "job")), (("Age", 18, 80), ("Score", 0, 100))),
    _Subject("team", "Team", (("City", "city"),), (("Wins", 0, 30), ("Losses", 0, 30), ("Points", 0, 99))),
    _Subject("product", "Product", (), (("Price", 10, 999), ("Stock", 0, 500), ("Sold", 0, 500))),
    _Subject("city", "City", (), (("Hotels", 5, 400), ("Parks", 1, 60), ("Schools", 10, 300))),
    _Subject("company", "Company", (("City", "city"),), (("Staff", 10, 900), ("Offices", 1, 40))),
    _Subject("item", "Item", (), (("Price", 1, 50), ("Amount", 1, 40))),
)


class _Table(NamedTuple):
    subject: _Subject
    header: list[str]
    rows: list[list[str]]

    def column(self, name: str) -> list[str]:
        return [row[self.header.index(name)] for row in self.rows]

    @property
    def numbers(self) -> list[str]:
        return [name for name, _, _ in self.subject.numbers if name in self.header]


def _sample(page: Page) -> _Table:
    count = page.count(3, 10)
    subject = page.choose([item for item in SUBJECTS if len(vocabulary(item.category, page.split)) > count])
    keys = page.words(subject.category, count)
    texts, numbers = dict(subject.texts), {name: limits for name, *limits in subject.numbers}
    names = page.sample([*texts, *numbers], page.integer(1, 3))
    rows = [
        [key, *(page.word(texts[name]) if name in texts else str(page.integer(*numbers[name])) for name in names)]
        for key in keys
    ]
    return _Table(subject, [subject.key, *names], rows)


def draw_table(page: Page) -> PageContent:
    """Draw a table."""
    layout, table, height = page.layout(LAYOUTS), _sample(page), page.height
    style = page.style("sans", "serif", "sans", "mono")._replace(colour=page.choose(INKS))
    head = bolder(style)
    if layout == "dark header":
        head = head._replace(colour=(255, 255, 255))
    columns = list(zip(table.header, *table.rows, strict=True))
    widths = [max(head.width(name), *map(style.width, cells)) + 2 * height for name, *cells in columns]
    room = page.canvas.width - 2 * page.margin
    page.canvas.require(sum(widths) <= room)
    stretch = max(1.0, min(page.uniform(1, 1.6), room / sum(widths)))
    widths = [width * stretch for width in widths]
    left = page.margin + max(0, room - sum(widths)) / 2
    pitch = PITCH * height * page.uniform(1, 1.25)
    free = page.canvas.height - 2 * page.margin - pitch * (len(table.rows) + 1)
    top = page.margin + max(0, free) * page.uniform(0.2, 0.8)
    edges = [left + sum(widths[:number]) for number in range(len(widths) + 1)]
    _draw_lines(page, layout, edges, top, pitch, len(table.rows), style)
    spans: dict[tuple[int, int], Span] = {}
    for row, cells in enumerate((table.header, *table.rows)):
        y = top + pitch * row + (pitch + height) / 2
        for column, cell in enumerate(cells):
            text, start, end = head if row == 0 else style, edges[column], edges[column + 1]
            numeric = table.header[column] in table.numbers
            align: Align
            align, x = ("middle", (start + end) / 2) if layout == "open" else ("left", start + height)
            if numeric and layout != "open":
                align, x = "right", end - height
            spans[row, column] = page.canvas.text(x, y, cell, text, align)
    content = {"header": table.header, "rows": table.rows}
    return PageContent(layout, content, _questions(page, table, spans))


def _draw_lines(
    page: Page, layout: str, edges: list[float], top: float, pitch: float, rows: int, style: TextStyle
) -> None:
    canvas, thin = page.canvas, max(1, page.height / 14)
    ends = edges[0], edges[-1]
    levels = [top + pitch * number for number in range(rows + 2)]
    tint = page.choose(TINTS)
    if layout == "dark header":
        canvas.rectangle((ends[0], levels[0], ends[1], levels[1]), fill=style.colour)
        canvas.rectangle((ends[0], levels[0], ends[1], levels[-1]), outline=style.colour, width=thin)
    elif layout == "striped":
        for number in range(0, rows + 1, 2):
            canvas.rectangle((ends[0], levels[number], ends[1], levels[number + 1]), fill=tint)
    elif layout == "grid":
        canvas.rectangle((ends[0], levels[0], ends[1], levels[1]), fill=tint)
        for y in levels:
            canvas.line([(ends[0], y), (ends[1], y)], style.colour, thin)
        for x in edges:
            canvas.line([(x, levels[0]), (x, levels[-1])], style.colour, thin)
    elif layout == "ruled":
        for number, y in enumerate(levels):
            strong = number in (0, 1, rows + 1)
            canvas.line([(ends[0], y), (ends[1], y)], style.colour if strong else (170, 170, 176), thin * (1 + strong))
    else:
        canvas.dots(*ends, levels[1], style.colour)


def _questions(page: Page, table: _Table, spans: dict[tuple[int, int], Span]) -> list[PageQuestion]:
    keys, key = table.column(table.header[0]), table.header[0]
    asked = [
        PageQuestion("How many rows are below the header?", str(len(keys)), (), "count"),
        PageQuestion("How many columns does the table have?", str(len(table.header)), (), "count"),
    ]
    for row in page.sample(range(len(keys)), 3):
        column = page.integer(1, len(table.header) - 1)
        name, value = table.header[column], table.rows[row][column]
        asked.append(PageQuestion(f"What is the {name.lower()} of {keys[row]}?", value, spans[row + 1, column], "cell"))
        if table.column(name).count(value) == 1 and page.chance():
            text = f"Which {key.lower()} has the {name.lower()} {value}?"
            asked.append(PageQuestion(text, keys[row], spans[row + 1, 0], "row"))
    for name in table.numbers:
        values = [int(value) for value in table.column(name)]
        for word, extreme in ("highest", max(values)), ("lowest", min(values)):
            if values.count(extreme) == 1:
                row = values.index(extreme)
                text = f"Which {key.lower()} has the {word} {name.lower()}?"
                asked.append(PageQuestion(text, keys[row], spans[row + 1, 0], "compare"))
        low, high = values.index(min(values)), values.index(max(values))
        if values[low] < values[high]:
            texts = (
                f"Is the {name.lower()} of {keys[a]} higher than that of {keys[b]}?"
                for a, b in ((high, low), (low, high))
            )
            asked.append(page.yes_or_no((next(texts), next(texts))))
    others = [entry for entry in vocabulary(table.subject.category, page.split) if entry not in keys]
    pair = f"Is {page.choose(keys)} in the table?", f"Is {page.choose(others)} in the table?"
    return [*asked, page.yes_or_no(pair)]
