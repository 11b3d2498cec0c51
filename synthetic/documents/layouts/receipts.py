"""Receipts: a shop, a date, items with prices, subtotal, tax and total."""

from __future__ import annotations

from dataclasses import dataclass

from synthetic.documents.canvas import Canvas, Span, TextStyle
from synthetic.documents.page import INKS, Page, PageContent, PageQuestion, bolder
from synthetic.documents.vocabulary import MONTHS, vocabulary

LAYOUTS = (("centred", "left", "leaders", "quantities"), ("columns", "total box"))
"""Layouts of train and val, and those of test."""
COUNTED = ("quantities", "columns")
"""Layouts with quantities."""
PITCH = 1.85
"""Distance of two lines, in heights of capital letters."""


@dataclass(frozen=True)
class _Item:
    name: str
    quantity: int
    cents: int

    @property
    def sum(self) -> int:
        return self.quantity * self.cents


@dataclass(frozen=True)
class _Receipt:
    shop: str
    street: str
    date: str
    items: list[_Item]
    tax: int | None
    symbol: str

    @property
    def subtotal(self) -> int:
        return sum(item.sum for item in self.items)

    @property
    def total(self) -> int:
        return self.subtotal + (self.tax or 0)

    def money(self, cents: int) -> str:
        return f"{self.symbol}{cents // 100}.{cents % 100:02}"


def _sample(page: Page, layout: str) -> _Receipt:
    items = []
    for name in page.words("item", page.count(3, 14)):
        cents = page.integer(1, 30) * 50 - page.choose((0, 1, 5)) if page.chance() else page.integer(60, 2999)
        items.append(_Item(name, page.integer(1, 4) if layout in COUNTED else 1, cents))
    tax = None
    if page.chance(0.7):
        tax = round(sum(item.sum for item in items) * page.choose((0.05, 0.07, 0.08, 0.1, 0.2)))
    day, month, year = page.integer(1, 28), page.integer(1, 12), page.integer(2015, 2026)
    formats = f"{day:02}/{month:02}/{year}", f"{year}-{month:02}-{day:02}", f"{MONTHS[month - 1]} {day}, {year}"
    shop = f"{page.word('shop name')} {page.word('shop type')}"
    street = f"{page.integer(1, 99)} {page.word('street')}"
    return _Receipt(shop, street, page.choose(formats), items, tax, page.choose(("", "$", "€", "£")))


class _Paper:
    """Writes line by line below each other between two edges."""

    def __init__(self, canvas: Canvas, left: float, right: float, top: float, style: TextStyle) -> None:
        self.canvas, self.left, self.right, self.style = canvas, left, right, style
        self.pitch = PITCH * style.height
        self.y = top + style.height

    def middle(self, text: str, style: TextStyle) -> Span:
        """Write a line in the middle."""
        extra = max(0, style.height - self.style.height)
        span = self.canvas.text((self.left + self.right) / 2, self.y + extra, text, style, "middle")
        self.y += self.pitch + extra * 1.5
        return span

    def start(self, text: str, style: TextStyle) -> Span:
        """Write a line at the left edge."""
        extra = max(0, style.height - self.style.height)
        span = self.canvas.text(self.left, self.y + extra, text, style)
        self.y += self.pitch + extra * 1.5
        return span

    def pair(self, label: str, value: str, style: TextStyle, leaders: bool = False) -> tuple[Span, Span]:
        """Write a label at the left edge and a value at the right one, with dots between them if `leaders`."""
        spans = (
            self.canvas.text(self.left, self.y, label, style),
            self.canvas.text(self.right, self.y, value, style, "right"),
        )
        if leaders:
            gap = style.height * 0.6
            edges = self.left + style.width(label) + gap, self.right - style.width(value) - gap
            self.canvas.dots(*edges, self.y - 1, style.colour, max(1.0, style.height / 7))
        self.y += self.pitch
        return spans

    def rule(self, dashed: bool) -> None:
        """Draw a line across, broken or not."""
        y = self.y - 0.75 * self.style.height
        if dashed:
            self.canvas.dots(self.left, self.right, y, self.style.colour, max(2.0, self.style.height / 3))
        else:
            self.canvas.line([(self.left, y), (self.right, y)], self.style.colour, max(1, self.style.height / 10))
        self.y += 0.55 * self.pitch


def draw_receipt(page: Page) -> PageContent:
    """Draw a receipt."""
    layout = page.layout(LAYOUTS)
    receipt = _sample(page, layout)
    style = page.style("mono", "sans", "mono", "serif")._replace(colour=page.choose(INKS))
    prices = receipt.money if page.chance() else lambda cents: receipt.money(cents).removeprefix(receipt.symbol)
    lines = [(item.name, prices(item.sum)) for item in receipt.items]
    if layout in COUNTED:
        lines = [
            (f"{item.quantity} x {item.name}", price) for item, (_, price) in zip(receipt.items, lines, strict=True)
        ]
    tax = page.choose(("Tax", "VAT", "Sales tax"))
    sums = [] if receipt.tax is None else [("Subtotal", prices(receipt.subtotal)), (tax, prices(receipt.tax))]
    heading = bolder(style, page.uniform(1.0, 1.35))
    widths = [bolder(style).width(f"{a}   {b}") for a, b in (*lines, *sums)]
    needed = max(*widths, heading.width(receipt.shop), style.width(receipt.street), style.width(receipt.date))
    room = page.canvas.width - 2 * page.margin
    width = min(room, needed * page.uniform(1.0, 1.6))
    left = page.margin + (room - width) * page.choose((0.5, page.uniform(0, 1)))
    rows = len(lines) + len(sums) + 4 + (layout in ("left", "columns")) + 2 * (layout == "total box")
    slack = page.canvas.height - 2 * page.margin - PITCH * style.height * (rows + 0.6)
    paper = _Paper(page.canvas, left, left + width, page.margin + max(0, slack) * page.uniform(0, 0.6), style)
    spans = _write(page, paper, layout, receipt, lines, sums, heading)
    content = {
        "shop": receipt.shop,
        "date": receipt.date,
        "items": [
            {"name": item.name, **({"quantity": item.quantity} if layout in COUNTED else {}), "price": price}
            for item, (_, price) in zip(receipt.items, lines, strict=True)
        ],
        **({} if receipt.tax is None else {"subtotal": sums[0][1], "tax": sums[1][1]}),
        "total": receipt.money(receipt.total),
    }
    return PageContent(layout, content, _questions(page, receipt, content, spans))


def _write(
    page: Page,
    paper: _Paper,
    layout: str,
    receipt: _Receipt,
    lines: list[tuple[str, str]],
    sums: list[tuple[str, str]],
    heading: TextStyle,
) -> dict[str, Span]:
    """Write the lines of a layout; returns the words of each value."""
    style, dashed, spans = paper.style, page.chance(), {}
    head = paper.start if layout in ("left", "columns") else paper.middle
    spans["shop"] = head(receipt.shop, heading)
    if layout == "left":
        head(receipt.street, style)
    if layout != "columns":
        spans["date"] = head(receipt.date, style)
    paper.rule(dashed)
    if layout == "columns":
        box = paper.left - 2, paper.y - 1.4 * style.height, paper.right + 2, paper.y + 0.45 * style.height
        paper.canvas.rectangle(box, fill=(222, 222, 226))
        paper.pair("Item", "Price", bolder(style))
    for number, (label, price) in enumerate(lines):
        names, spans[f"price {number}"] = paper.pair(label, price, style, layout == "leaders")
        spans[f"quantity {number}"], spans[f"item {number}"] = (
            (names[:1], names[2:]) if layout in COUNTED else ((), names)
        )
    paper.rule(dashed)
    for name, (label, value) in zip(("subtotal", "tax"), sums, strict=False):
        _, spans[name] = paper.pair(label, value, style, layout == "leaders")
    label, value = page.choose(("TOTAL", "Total", "Total")), receipt.money(receipt.total)
    if layout == "total box":
        edges = paper.y - 0.7 * style.height, paper.y + 2.2 * style.height
        paper.canvas.rectangle(
            (paper.left, edges[0], paper.right, edges[1]), outline=style.colour, width=style.height / 8
        )
        paper.left, paper.right, paper.y = (
            paper.left + style.height,
            paper.right - style.height,
            paper.y + 1.2 * style.height,
        )
    _, spans["total"] = paper.pair(label, value, bolder(style))
    if layout == "columns":
        _, spans["date"] = paper.pair("Date", receipt.date, style)
    return spans


def _questions(page: Page, receipt: _Receipt, content: dict, spans: dict[str, Span]) -> list[PageQuestion]:
    def printed(text: str, field: str) -> PageQuestion:
        return PageQuestion(text, content[field], spans[field], field)

    asked = [
        printed(page.choose(("What is the total?", "What is the total amount?", "How much is the total?")), "total"),
        printed(page.choose(("What is the date?", "What is the date on the receipt?")), "date"),
        printed(page.choose(("What is the name of the shop?", "Which shop is the receipt from?")), "shop"),
        PageQuestion("How many different items are on the receipt?", str(len(receipt.items)), (), "count"),
    ]
    if receipt.tax is not None:
        asked += [printed("What is the subtotal?", "subtotal"), printed("How much is the tax?", "tax")]
    for number in page.sample(range(len(receipt.items)), 3):
        item, words = content["items"][number], spans[f"price {number}"]
        if "quantity" in item:
            asked.append(PageQuestion(f"How much was paid for {item['name']}?", item["price"], words, "price"))
            quantity, words = str(item["quantity"]), spans[f"quantity {number}"]
            asked.append(PageQuestion(f"What quantity of {item['name']} was bought?", quantity, words, "quantity"))
        else:
            text = page.choose(("What is the price of {}?", "How much does {} cost?")).format(item["name"])
            asked.append(PageQuestion(text, item["price"], words, "price"))
    sums = [item.sum for item in receipt.items]
    for adverb, number in ("most", sums.index(max(sums))), ("least", sums.index(min(sums))):
        if sums.count(sums[number]) == 1 and len(sums) > 1:
            name = receipt.items[number].name
            asked.append(PageQuestion(f"Which item costs the {adverb}?", name, spans[f"item {number}"], "compare"))
    names = [item.name for item in receipt.items]
    others = [name for name in vocabulary("item", page.split) if name not in names]
    asked.append(
        page.yes_or_no((f"Is {page.choose(names)} on the receipt?", f"Is {page.choose(others)} on the receipt?"))
    )
    return asked
