"""Line charts: one or several lines over months, years or days, with or without marks and values."""

from __future__ import annotations

from synthetic.documents.layouts.charts import COLOURS, GRID, chart_questions, draw_frame, sample_chart
from synthetic.documents.page import INKS, Page, PageContent, PageQuestion, answer_of

LAYOUTS = (("plain", "dots", "several"), ("labelled", "area"))
"""Layouts of train and val, and those of test."""


def draw_line_chart(page: Page) -> PageContent:
    """Draw a line chart."""
    layout, canvas = page.layout(LAYOUTS), page.canvas
    labelled, series = layout == "labelled", page.integer(2, 3) if layout == "several" else 1
    chart = sample_chart(page, series, labelled, ordered=True, most=12)
    style = page.style("sans", "serif", "sans")._replace(colour=page.choose(INKS))
    plot = draw_frame(page, chart, style, ticks=not labelled)
    width, slot = max(1.5, page.height / 4.5), 1 / len(chart.categories)
    for colour, (name, values) in zip(chart.colours, chart.series.items(), strict=True):
        points = [(plot.across((n + 0.5) * slot), plot.along(value / chart.top)) for n, value in enumerate(values)]
        if layout == "area":
            ends = [(points[-1][0], plot.bottom), (points[0][0], plot.bottom)]
            canvas.polygon([*points, *ends], fill=GRID)
        canvas.line(points, COLOURS[colour], width)
        radius = width * (1.0 if layout in ("plain", "area") else 1.7)
        for number, (x, y) in enumerate(points):
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[colour])
            if labelled:
                low = values[number] < min(
                    [values[near] for near in (number - 1, number + 1) if 0 <= near < len(values)]
                )
                place = y + radius + 1.6 * page.height if low else y - radius - 0.6 * page.height
                words = canvas.text(x, place, str(values[number]), style, "middle")
                plot.spans[f"value {name} {number}"] = words
    asked = chart_questions(page, chart, plot.spans)
    asked.append(PageQuestion("How many lines are in the chart?", str(series), (), "count"))
    for name, values in chart.series.items():
        steps = [number for number in range(len(values) - 1) if values[number] != values[number + 1]]
        if steps:
            number = page.choose(steps)
            of, answer = f" of {name}" if series > 1 else "", answer_of(values[number] < values[number + 1])
            text = f"Does the value{of} rise from {chart.categories[number]} to {chart.categories[number + 1]}?"
            asked.append(PageQuestion(text, answer, (), "yes_no", series > 1))
    return PageContent(layout, chart.content, asked)
