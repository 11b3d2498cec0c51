"""Bar charts: vertical or horizontal bars, alone or in groups, with or without their values."""

from __future__ import annotations

from synthetic.documents.canvas import Colour
from synthetic.documents.layouts.charts import COLOURS, Chart, Plot, chart_questions, draw_frame, sample_chart
from synthetic.documents.page import INKS, Page, PageContent, PageQuestion

LAYOUTS = (("vertical", "labelled", "grouped"), ("horizontal", "dark"))
"""Layouts of train and val, and those of test."""
DARK: Colour = (34, 38, 50)


def draw_bar_chart(page: Page) -> PageContent:
    """Draw a bar chart."""
    layout = page.layout(LAYOUTS)
    labelled = layout in ("labelled", "horizontal", "dark")
    series = page.integer(2, 3) if layout == "grouped" else 1
    chart = sample_chart(page, series, labelled, ordered=False, most=5 if series > 1 else 9)
    style = page.style("sans", "serif", "sans")._replace(colour=page.choose(INKS))
    if layout == "dark":
        page.canvas.rectangle((0, 0, page.canvas.width, page.canvas.height), fill=DARK)
        style = style._replace(colour=(238, 238, 240))
        chart = Chart(**{**vars(chart), "colours": [page.choose(["red", "orange", "blue", "green"])]})
    plot = draw_frame(page, chart, style, layout == "horizontal", not labelled)
    slot, share = 1 / len(chart.categories), page.uniform(0.55, 0.8)
    for place, (name, values) in enumerate(chart.series.items()):
        colour = COLOURS[chart.colours[place]]
        for number, value in enumerate(values):
            start = (number + 0.5 - share / 2 + share * place / series) * slot
            _draw_bar(page, plot, (start, start + share / series * slot), value / chart.top, colour)
            if labelled:
                middle, end = plot.across((number + 0.5) * slot), plot.along(value / chart.top)
                if plot.horizontal:
                    words = page.canvas.text(end + 0.4 * page.height, middle + page.height / 2, str(value), style)
                else:
                    words = page.canvas.text(middle, end - 0.6 * page.height, str(value), style, "middle")
                plot.spans[f"value {name} {number}"] = words
    bars = len(chart.categories) * series
    asked = [
        *chart_questions(page, chart, plot.spans),
        PageQuestion("How many bars are there?", str(bars), (), "count"),
    ]
    return PageContent(layout, chart.content, asked)


def _draw_bar(page: Page, plot: Plot, ends: tuple[float, float], share: float, colour: Colour) -> None:
    start, end = map(plot.across, ends)
    base, tip = plot.along(0), plot.along(share)
    box = (base, start, tip, end) if plot.horizontal else (start, tip, end, base)
    page.canvas.rectangle(box, fill=colour)
