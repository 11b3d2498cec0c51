"""Forms: a title, labelled fields with typed or handwritten values, some left empty, and boxes to tick."""

from __future__ import annotations

from typing import NamedTuple

from synthetic.documents.canvas import Colour, Span, TextStyle
from synthetic.documents.page import INKS, Page, PageContent, PageQuestion, answer_of, bolder
from synthetic.documents.vocabulary import MONTHS

LAYOUTS = (("underlined", "boxed", "two columns"), ("grid", "card"))
"""Layouts of train and val, and those of test."""
TITLES = ("Registration Form", "Application Form", "Order Form", "Visitor Form", "Membership Card", "Patient Record")
LABELS = (
    "Name",
    "City",
    "Street",
    "Phone",
    "Company",
    "Job",
    "Date of birth",
    "Date",
    "Room",
    "Number",
    "Country code",
)
TICKS = ("Newsletter", "Insurance", "Parking", "Breakfast", "Delivery")
PENS: tuple[Colour, ...] = ((25, 45, 140), (20, 20, 24), (30, 60, 170))
"""Colours of handwriting."""


class _Field(NamedTuple):
    label: str
    value: str
    left: float
    right: float
    y: float
    """Baseline of the value."""


def _value(page: Page, label: str) -> str:
    numbers = {"Phone": 6, "Room": 3, "Number": 5, "Country code": 2}
    if label in numbers:
        return str(page.integer(10 ** (numbers[label] - 1), 10 ** numbers[label] - 1))
    if label in ("Date", "Date of birth"):
        years = (1945, 2008) if label == "Date of birth" else (2015, 2026)
        return f"{page.integer(1, 28)} {page.choose(MONTHS)} {page.integer(*years)}"
    if label == "Name":
        return f"{page.word('first name')} {page.word('last name')}"
    street = f"{page.integer(1, 99)} " if label == "Street" else ""
    return street + page.word({"City": "city", "Street": "street", "Company": "company", "Job": "job"}[label])


def draw_form(page: Page) -> PageContent:
    """Draw a form."""
    layout, canvas = page.layout(LAYOUTS), page.canvas
    label_style = page.style("sans", "serif")._replace(colour=page.choose(INKS))
    value_style = page.style(page.choose(("hand", "hand", "mono", "sans")))
    if value_style.face.family.style == "hand":
        value_style = value_style._replace(colour=page.choose(PENS), height=page.height * 1.25)
    labels = ["Name", *page.sample(LABELS[1:], page.count(3, 9) - 1)]
    values = {label: "" if page.chance(0.1) and label != "Name" else _value(page, label) for label in labels}
    title = f"{page.word('company')} {page.choose(TITLES)}" if page.chance() else page.choose(TITLES)
    heading = bolder(label_style, page.uniform(1.1, 1.4))
    top = page.margin + heading.height
    if layout == "card":
        band = page.choose(((40, 70, 120), (120, 40, 50), (30, 90, 70), (70, 60, 110)))
        edge = page.margin * 0.4
        box = edge, edge, canvas.width - edge, canvas.height - edge
        canvas.rectangle(box, outline=band, width=max(2, page.height / 6), radius=page.height)
        canvas.rectangle((*box[:2], box[2], top + 1.2 * page.height), fill=band, radius=page.height)
        heading = heading._replace(colour=(255, 255, 255))
    words = canvas.text(canvas.width / 2, top, title, heading, "middle")
    top += 1.6 * page.height
    ticks = {name: page.chance() for name in page.sample(TICKS, page.integer(0, 2))}
    bottom = canvas.height - page.margin - (2.6 * page.height if ticks else 0)
    fields = _place(page, layout, values, label_style, top, bottom)
    spans = {}
    for field in fields:
        _draw_field(page, layout, field, label_style, value_style)
        spans[field.label] = canvas.text(field.left, field.y, field.value, value_style) if field.value else ()
    _draw_ticks(page, ticks, label_style, bottom)
    content = {"title": title, "fields": values, "ticks": ticks}
    asked = [
        PageQuestion("What is the title of the form?", title, words, "title"),
        *_questions(page, values, ticks, spans),
    ]
    return PageContent(layout, content, asked)


def _place(
    page: Page, layout: str, values: dict[str, str], style: TextStyle, top: float, bottom: float
) -> list[_Field]:
    """Write the labels; returns the fields with the positions of their values."""
    canvas, height = page.canvas, page.height
    columns = 2 if layout == "two columns" else 1
    rows = -(-len(values) // columns)
    least = {"underlined": 2.3, "grid": 2.4, "card": 2.2}.get(layout, 4.4) * height
    pitch = min((bottom - top) / rows, least * page.uniform(1, 2))
    canvas.require(pitch >= least)
    inner = page.margin * (1.6 if layout == "card" else 1)
    width = (canvas.width - 2 * inner) / columns
    widest = max(style.width(f"{label}:") for label in values)
    fields = []
    for number, (label, value) in enumerate(values.items()):
        left, y = inner + width * (number % columns), top + pitch * (number // columns + 1)
        right = left + width - (height if columns == 2 else 0)
        if layout in ("boxed", "two columns"):
            canvas.text(left, y - 2.5 * height, label, style)
            fields.append(_Field(label, value, left + 0.5 * height, right, y - 0.4 * height))
            continue
        y -= 0.5 * height
        start = left + widest + 1.2 * height
        text = label if layout == "grid" else f"{label}:"
        if layout == "grid":
            box = left, y - pitch + 0.7 * height, right, y + 0.7 * height
            canvas.rectangle((*box[:2], start - 0.5 * height, box[3]), fill=(228, 232, 238))
            canvas.rectangle(box, outline=style.colour, width=1)
            canvas.line([(start - 0.5 * height, box[1]), (start - 0.5 * height, box[3])], style.colour)
            y -= (pitch - 2.4 * height) / 2
            canvas.text(left + 0.5 * height, y, text, style)
        elif layout == "card":
            canvas.text(left + widest, y, text, style, "right")
        else:
            canvas.text(left, y, text, style)
            start = left + style.width(text) + 0.6 * height
        fields.append(_Field(label, value, start, right, y))
    return fields


def _draw_field(page: Page, layout: str, field: _Field, labels: TextStyle, style: TextStyle) -> None:
    """Draw the line or box of a field's value."""
    height = page.height
    if layout == "boxed":
        box = field.left - 0.5 * height, field.y - 1.6 * height, field.right, field.y + 0.6 * height
        page.canvas.rectangle(box, outline=labels.colour, width=max(1, height / 12))
    elif layout in ("underlined", "two columns"):
        y = field.y + 0.4 * height
        page.canvas.line([(field.left, y), (field.right, y)], (130, 130, 136), max(1, height / 14))


def _draw_ticks(page: Page, ticks: dict[str, bool], style: TextStyle, top: float) -> None:
    """Draw small boxes with a cross in those that are ticked."""
    x, y, side = page.margin * 1.6, top + 1.8 * page.height, 1.1 * page.height
    for name, ticked in ticks.items():
        box = x, y - side, x + side, y
        page.canvas.rectangle(box, outline=style.colour, width=max(1, page.height / 10))
        if ticked:
            inset = 0.2 * side
            for ends in (
                [(box[0] + inset, box[1] + inset), (box[2] - inset, box[3] - inset)],
                [(box[0] + inset, box[3] - inset), (box[2] - inset, box[1] + inset)],
            ):
                page.canvas.line(ends, PENS[0], max(1.5, page.height / 6))
        page.canvas.text(x + 1.6 * side, y, name, style)
        x += 1.6 * side + style.width(name) + 2 * page.height


def _questions(
    page: Page, values: dict[str, str], ticks: dict[str, bool], spans: dict[str, Span]
) -> list[PageQuestion]:
    asked = [PageQuestion("How many fields does the form have?", str(len(values)), (), "count")]
    for label, value in values.items():
        if value:
            text = page.choose(("What is the {}?", "What is written under {}?")).format(label.lower())
            asked.append(PageQuestion(text, value, spans[label], "field"))
    label = page.choose(list(values))
    asked.append(PageQuestion(f"Is the field {label} filled in?", answer_of(bool(values[label])), (), "yes_no"))
    for name, ticked in ticks.items():
        asked.append(PageQuestion(f"Is the box {name} ticked?", answer_of(ticked), (), "yes_no"))
    return asked
