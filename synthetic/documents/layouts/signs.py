"""Signs: boards of shops, road signs with destinations, notices, speed limits and warnings."""

from __future__ import annotations

from synthetic.documents.canvas import Colour, Span, TextStyle
from synthetic.documents.page import Page, PageContent, PageQuestion, bolder, title_case
from synthetic.documents.vocabulary import vocabulary

LAYOUTS = (("board", "road", "notice", "speed"), ("diamond", "oval"))
"""Layouts of train and val, and those of test."""
GROUNDS: dict[str, Colour] = {
    "red": (186, 36, 40),
    "blue": (28, 78, 160),
    "green": (24, 110, 66),
    "yellow": (246, 206, 48),
    "white": (246, 246, 242),
    "black": (34, 34, 38),
}
"""Colours of signs, by the names that questions use."""
SKIES: tuple[Colour, ...] = ((214, 226, 236), (226, 222, 212), (206, 214, 206), (236, 236, 238))
SPEEDS = (20, 30, 40, 50, 60, 70, 80, 90, 100, 120)
PITCH = 1.7


def draw_sign(page: Page) -> PageContent:
    """Draw a sign."""
    layout, canvas = page.layout(LAYOUTS), page.canvas
    canvas.rectangle((0, 0, canvas.width, canvas.height), fill=page.choose(SKIES))
    draw = {"road": _draw_road, "speed": _draw_speed}.get(layout)
    return draw(page) if draw else _draw_text(page, layout)


def _ink(ground: str) -> Colour:
    return (24, 24, 26) if ground in ("yellow", "white") else (250, 250, 250)


def _break(page: Page, text: str) -> list[str]:
    """Break a text into as many lines as asked for, or after each second word."""
    words = text.split()
    count = min(len(words), page.count(1, 2) if len(words) < 4 else 2)
    size = -(-len(words) // count)
    return [" ".join(words[number : number + size]) for number in range(0, len(words), size)]


def _write(page: Page, lines: list[str], style: TextStyle, x: float, y: float, width: float, height: float) -> Span:
    """Write lines around a point, as large as the space allows, but never smaller than the page's text."""
    widest = max(style.width(line) for line in lines) / style.height
    largest = min(width / widest, height / (PITCH * len(lines)))
    size = page.height if page.exact else max(page.height, largest * page.uniform(0.75, 1))
    style = style._replace(height=size)
    first = y + size / 2 - (len(lines) - 1) * PITCH * size / 2
    spans = [page.canvas.text(x, first + PITCH * size * n, line, style, "middle") for n, line in enumerate(lines)]
    return tuple(number for span in spans for number in span)


def _draw_text(page: Page, layout: str) -> PageContent:
    """Draw a board, notice, diamond or oval with a short text."""
    canvas = page.canvas
    width, height = canvas.width - 2 * page.margin, canvas.height - 2 * page.margin
    middle = canvas.width / 2, canvas.height / 2
    shop = layout in ("board", "oval") and page.chance()
    text = f"{page.word('shop name')} {page.word('shop type')}" if shop else page.word("sign")
    if layout == "diamond":
        text = page.word("warning")
    ground = {"diamond": "yellow", "notice": "white"}.get(layout) or page.choose(list(GROUNDS))
    style = page.style(*(("display", "serif", "sans", "hand") if shop else ("sans", "display")))
    style = bolder(style._replace(colour=_ink(ground)))
    text = title_case(style, text)
    wide = height * (page.uniform(0.4, 0.7) if layout in ("board", "oval") else 0.85)
    box = middle[0] - width / 2, middle[1] - wide / 2, middle[0] + width / 2, middle[1] + wide / 2
    edge = max(2.0, 0.012 * canvas.width)
    if layout == "diamond":
        corners = [(middle[0], box[1]), (box[2], middle[1]), (middle[0], box[3]), (box[0], middle[1])]
        canvas.polygon(corners, GROUNDS[ground], style.colour, edge)
        room = 0.58 * width, 0.3 * wide
    elif layout == "oval":
        canvas.ellipse(box, GROUNDS[ground], style.colour, edge)
        room = 0.76 * width, 0.5 * wide
    else:
        canvas.rectangle(box, GROUNDS[ground], style.colour, edge, radius=edge * page.choose((0, 3)))
        room = width - 6 * edge, wide * 0.8
    centre = middle[1]
    if layout == "notice":
        band = page.choose(("red", "blue", "green"))
        canvas.rectangle((box[0] + edge, box[1] + edge, box[2] - edge, box[1] + wide * 0.28), GROUNDS[band])
        head = page.choose(("NOTICE", "ATTENTION", "CAUTION"))
        top = style._replace(colour=(250, 250, 250))
        headed = _write(page, [head], top, middle[0], box[1] + edge / 2 + wide * 0.14, width * 0.7, wide * 0.2)
        room, centre = (room[0], wide * 0.6), box[1] + wide * 0.63
    words = _write(page, _break(page, text), style, middle[0], centre, *room)
    others = [item for item in vocabulary("warning" if layout == "diamond" else "sign", page.split) if item != text]
    asked = [
        PageQuestion("What does the sign say?", text, words, "read"),
        PageQuestion("What colour is the sign?", ground, (), "colour", True),
        page.yes_or_no((f"Does the sign say {text}?", f"Does the sign say {page.choose(others)}?")),
    ]
    content = {"text": text, "colour": ground}
    if layout == "notice":
        content |= {"heading": head, "band": band}
        asked[0] = PageQuestion("What does the sign say below its heading?", text, words, "read")
        asked[1] = PageQuestion("What colour is the heading of the sign?", band, (), "colour", True)
        asked.append(PageQuestion("What is the heading of the sign?", head, headed, "read"))
    else:
        asked.append(PageQuestion("How many words are on the sign?", str(len(text.split())), (), "count"))
    return PageContent(layout, content, asked)


def _draw_road(page: Page) -> PageContent:
    """Draw a road sign with destinations and distances."""
    canvas, ground = page.canvas, page.choose(("blue", "green", "white", "yellow"))
    style = bolder(page.style("sans")._replace(colour=_ink(ground)))
    names = page.words("destination", page.count(1, 4))
    distances = page.sample(range(1, 100), len(names))
    width = canvas.width - 2 * page.margin
    widest = max(style.width(f"{name}   {distance} km") for name, distance in zip(names, distances, strict=True))
    room = min((width - 2 * page.margin) / widest, 0.8 * canvas.height / (2.2 * len(names) * page.height))
    size = page.height * (1 if page.exact else max(1.0, room * page.uniform(0.75, 1)))
    style, pitch = style._replace(height=size), 2.2 * size
    tall = pitch * len(names) + size
    top, edge = (canvas.height - tall) / 2, max(2.0, size / 8)
    box = page.margin, top, canvas.width - page.margin, top + tall
    canvas.rectangle(box, GROUNDS[ground], radius=size / 2)
    inner = box[0] + edge, box[1] + edge, box[2] - edge, box[3] - edge
    canvas.rectangle(inner, outline=style.colour, width=edge, radius=size / 2)
    asked, spans = [], {}
    for number, (name, distance) in enumerate(zip(names, distances, strict=True)):
        y = top + size / 2 + pitch * number + (pitch + size) / 2
        spans[name] = canvas.text(2 * page.margin, y, name, style)
        words = canvas.text(canvas.width - 2 * page.margin, y, f"{distance} km", style, "right")
        asked.append(PageQuestion(f"How far is it to {name}?", f"{distance} km", words, "distance"))
    nearest = names[distances.index(min(distances))]
    if len(names) > 1:
        asked.append(PageQuestion("Which destination is the nearest?", nearest, spans[nearest], "compare"))
    others = [item for item in vocabulary("destination", page.split) if item not in names]
    asked += [
        PageQuestion("How many destinations are on the sign?", str(len(names)), (), "count"),
        PageQuestion("What colour is the sign?", ground, (), "colour", True),
        page.yes_or_no((f"Is {page.choose(names)} on the sign?", f"Is {page.choose(others)} on the sign?")),
    ]
    return PageContent("road", {"destinations": dict(zip(names, distances, strict=True)), "colour": ground}, asked)


def _draw_speed(page: Page) -> PageContent:
    """Draw a round sign with a speed limit."""
    canvas, speed = page.canvas, page.choose(SPEEDS)
    style = bolder(page.style("sans"))
    side = min(canvas.width, canvas.height) * page.uniform(0.7, 0.9)
    x, y = canvas.width / 2, canvas.height / 2
    canvas.ellipse(
        (x - side / 2, y - side / 2, x + side / 2, y + side / 2), GROUNDS["white"], GROUNDS["red"], side * 0.1
    )
    words = _write(page, [str(speed)], style, x, y, side * 0.6, side * 0.6)
    other = page.choose([item for item in SPEEDS if item != speed])
    asked = [
        PageQuestion("What is the speed limit?", str(speed), words, "read"),
        PageQuestion("What colour is the border of the sign?", "red", (), "colour", True),
        page.yes_or_no((f"Is the speed limit {speed}?", f"Is the speed limit {other}?")),
        page.yes_or_no((f"Is the limit below {speed + 5}?", f"Is the limit below {speed - 5}?"), "compare"),
    ]
    return PageContent("speed", {"speed": speed}, asked)
