"""What bar and line charts share: their data, title, axes and legend, and the questions about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from synthetic.documents.canvas import Colour, Span, TextStyle
from synthetic.documents.page import Page, PageQuestion, bolder
from synthetic.documents.vocabulary import DAYS, MONTHS, YEARS, vocabulary

COLOURS: dict[str, Colour] = {
    "red": (212, 58, 50),
    "blue": (46, 98, 190),
    "green": (48, 148, 78),
    "orange": (236, 140, 36),
    "purple": (132, 78, 172),
    "black": (40, 40, 44),
}
"""Colours of series, by the names that questions use."""
UNITS = ("Units", "Thousands", "Tonnes", "Percent", "Euros", "Dollars", "Hours")
STEPS = (2, 5, 10, 20, 25, 50, 100, 200)
GRID: Colour = (206, 208, 214)
ORDERED = {"month": MONTHS, "year": YEARS, "day": DAYS}
"""Categories with an order."""
NAMED = {"fruit": "fruit", "animal": "animal", "sport": "sport", "team": "team", "city": "city", "product": "product"}
"""Nouns of categories without an order, and where the vocabulary has them."""


@dataclass(frozen=True)
class Chart:
    """The data of a chart, and what its axes show."""

    title: str
    noun: str
    unit: str
    categories: list[str]
    series: dict[str, list[int]]
    colours: list[str]
    """Names of the series' colours."""
    step: int
    """Distance of two ticks."""
    top: int
    """Value at the end of the axis."""

    @property
    def content(self) -> dict[str, Any]:
        """Return the printed values."""
        named = {"series": self.series, "colours": dict(zip(self.series, self.colours, strict=True))}
        return {"title": self.title, "unit": self.unit, "categories": self.categories, **named}


class Plot(NamedTuple):
    """The area of a chart's values, and the words of its labels."""

    left: float
    top: float
    right: float
    bottom: float
    horizontal: bool
    spans: dict[str, Span]

    def across(self, position: float) -> float:
        """Return where a share of the axis of categories is."""
        start, end = (self.top, self.bottom) if self.horizontal else (self.left, self.right)
        return start + (end - start) * position

    def along(self, share: float) -> float:
        """Return where a share of the axis of values is."""
        start, end = (self.left, self.right) if self.horizontal else (self.bottom, self.top)
        return start + (end - start) * share


def sample_chart(page: Page, series: int, labelled: bool, ordered: bool, most: int) -> Chart:
    """Choose a chart's data; values that are not printed lie on ticks, or halfway between two."""
    count = page.count(3, most)
    nouns = {noun: values for noun, values in ORDERED.items() if len(values) >= count}
    if not ordered:
        nouns |= {noun: vocabulary(category, page.split) for noun, category in NAMED.items()}
        nouns = {noun: values for noun, values in nouns.items() if len(values) >= count}
    noun = page.choose(list(nouns))
    if noun in ORDERED:
        first = page.integer(0, len(nouns[noun]) - count)
        categories = list(nouns[noun][first : first + count])
    else:
        categories = page.sample(nouns[noun], count)
    step, ticks = page.choose(STEPS), page.integer(3, 5)
    unit = step // 2 if step % 2 == 0 else step
    grain = 1 if labelled else unit
    values = [
        [grain * page.integer(-(-unit // grain), step * ticks // grain) for _ in categories] for _ in range(series)
    ]
    subject = page.word("subject")
    names = page.words(page.choose([name for name in ("company", "product") if name != noun]), series)
    return Chart(
        title=f"{subject} {page.choose(('by', 'per'))} {noun}",
        noun=noun,
        unit=page.choose(UNITS),
        categories=categories,
        series=dict(zip(names if series > 1 else [subject], values, strict=True)),
        colours=page.sample(list(COLOURS), series),
        step=step,
        top=step * ticks,
    )


def draw_frame(page: Page, chart: Chart, style: TextStyle, horizontal: bool = False, ticks: bool = True) -> Plot:
    """Draw the title, the legend of several series, and the axes; `ticks`: values beside a vertical axis."""
    canvas, height, spans = page.canvas, page.height, {}
    heading = bolder(style, page.uniform(1.05, 1.35))
    y = page.margin + heading.height
    if page.chance():
        spans["title"] = canvas.text(page.margin, y, chart.title, heading)
    else:
        spans["title"] = canvas.text(canvas.width / 2, y, chart.title, heading, "middle")
    if len(chart.series) > 1:
        y += 2.1 * height
        _draw_legend(page, chart, style, y, spans)
    y += 2.1 * height
    spans["unit"] = () if horizontal else canvas.text(page.margin, y, chart.unit, style)
    levels = range(0, chart.top + 1, chart.step) if ticks else ()
    names = chart.categories if horizontal else [str(level) for level in levels]
    left = page.margin + max((style.width(name) + 0.7 * height for name in names), default=0)
    right, bottom = canvas.width - page.margin - 0.6 * height, canvas.height - page.margin
    if horizontal:
        plot = Plot(left, y + 0.2 * height, right, bottom, True, spans)
    else:
        plot = Plot(left, y + 1.3 * height, right, bottom - 2 * height, False, spans)
    for level in levels:
        position = plot.along(level / chart.top)
        canvas.line([(plot.left, position), (plot.right, position)], GRID)
        canvas.text(plot.left - 0.5 * height, position + height / 2, str(level), style, "right")
    end = (plot.left, plot.top) if horizontal else (plot.right, plot.bottom)
    canvas.line([(plot.left, plot.bottom), end], style.colour, max(1, height / 9))
    if not horizontal:
        slot = (plot.right - plot.left) / len(chart.categories)
        canvas.require(slot >= height + max(map(style.width, chart.categories)))
    canvas.require(plot.bottom - plot.top >= 2.2 * height * max(len(levels), 3))
    for number, name in enumerate(chart.categories):
        middle = plot.across((number + 0.5) / len(chart.categories))
        if horizontal:
            spans[name] = canvas.text(plot.left - 0.5 * height, middle + height / 2, name, style, "right")
        else:
            spans[name] = canvas.text(middle, plot.bottom + 1.8 * height, name, style, "middle")
    return plot


def _draw_legend(page: Page, chart: Chart, style: TextStyle, y: float, spans: dict[str, Span]) -> None:
    """Write the names of the series beside their colours."""
    x, side = page.margin, page.height
    for name, colour in zip(chart.series, chart.colours, strict=True):
        page.canvas.rectangle((x, y - side, x + side, y), fill=COLOURS[colour])
        spans[f"series {name}"] = page.canvas.text(x + 1.5 * side, y, name, style)
        x += 1.5 * side + style.width(name) + 1.5 * side


def chart_questions(page: Page, chart: Chart, spans: dict[str, Span]) -> list[PageQuestion]:
    """Ask about values, extremes, differences, colours, the title and the axes."""
    several = len(chart.series) > 1
    plural = f"{chart.noun}s".replace("citys", "cities")
    asked = [
        PageQuestion("What is the title of the chart?", chart.title, spans["title"], "title"),
        PageQuestion(f"How many {plural} are shown?", str(len(chart.categories)), (), "count"),
    ]
    if spans["unit"]:
        asked.append(PageQuestion("What is the label of the vertical axis?", chart.unit, spans["unit"], "axis"))
    for name, values in chart.series.items():
        of = f" of {name}" if several else ""
        for number in page.sample(range(len(values)), 2):
            preposition = "in" if chart.noun in ORDERED or several else "of"
            text = f"What is the value{of} {preposition} {chart.categories[number]}?"
            asked.append(
                PageQuestion(text, str(values[number]), spans.get(f"value {name} {number}", ()), "value", several)
            )
        for word, extreme in ("highest", max(values)), ("lowest", min(values)):
            if values.count(extreme) == 1:
                category = chart.categories[values.index(extreme)]
                text = f"Which {chart.noun} has the {word} value{of}?"
                asked.append(PageQuestion(text, category, spans[category], "compare", several))
        if min(values) < max(values):
            high, low = (chart.categories[values.index(extreme)] for extreme in (max(values), min(values)))
            text = f"Is the value{of} larger in {{}} than in {{}}?"
            asked.append(page.yes_or_no((text.format(high, low), text.format(low, high)))._replace(of_colours=several))
            text = f"What is the difference between the highest and the lowest value{of}?"
            asked.append(PageQuestion(text, str(max(values) - min(values)), (), "difference", several))
    if several:
        number = page.integer(0, len(chart.series) - 1)
        name, colour = list(chart.series)[number], chart.colours[number]
        asked.append(PageQuestion(f"What colour is {name}?", colour, (), "colour", True))
        asked.append(PageQuestion(f"What does {colour} stand for?", name, spans[f"series {name}"], "legend", True))
    return asked
