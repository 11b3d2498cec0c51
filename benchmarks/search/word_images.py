"""Images with known words: receipts, screenshots, slides, photographs with signs; and photographs as they are.

Fonts: ten of `pip install --group synthetic`, its Kalam, and matplotlib's DejaVu Sans. Photographs: COCO's in
PE_TEST_DATA, and some of the test split there, chosen by the hash of their names.
"""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from synthetic.documents.fonts import FAMILIES, Face, font_file

COUNT = 300
FONTS = [
    Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"),
    *(font_file(Face(family)) for family in FAMILIES if family.style in ("sans", "serif", "mono")),
    *(font_file(Face(family)) for family in FAMILIES if family.name == "kalam"),
]
SIGNS_ON, AS_THEY_ARE = {"caltech101": 115, "flowers": 100}, {"grocery": 200, "caltech101": 200, "clothing": 200}
"""Photographs of the test split, beside COCO's 85: with a sign, and as they are."""
SHORT_SIDE, TURN, BLUR = 640, 15, 2.5


def _words(text: str) -> list[str]:
    return text.split()


_SYLLABLES = _words(
    "bar bel cor dan del fen gar hal jor kel lan mar nor pel quin ros sal tor vel wil zan"  # codespell:ignore
)
_ENDINGS = _words("a ia by don ford ham ley mont o ski ton us ville wick")
_PLACES = _words("Bakery Books Coffee Dental Florist Garage Hotel Kitchen Market Optics Pharmacy Records Shoes Tailor")
_GOODS = _words(
    "bread butter cheese coffee apples batteries candles envelopes napkins olives pasta pencils rice salt soap "
    "sponge sugar tea tomatoes towels water yoghurt"
)
_TOPICS = _words(
    "annual budget bridge climate customer delivery energy forecast garden harbour heating inventory kitchen "
    "library museum network orchard parking quality railway safety school storage survey travel training water "
    "winter"
)
_KINDS = _words("agenda analysis guide minutes outlook plan policy proposal report review schedule summary")
_PROGRAMS = _words("Backup Calendar Editor Mail Monitor Notes Player Reader Sync Terminal")
_PAPERS = ("white", "#f4f1e8", "#eef3fa", "#20242c", "#fff8d6", "#e9efe6")


def draw_images(home: Path, data: Path) -> dict[str, str]:
    """Write 300 drawn images (a) and 300 photographs with a sign (b); return the query that each alone answers."""
    photographs = [*_coco(data), *_of_test_split(data, SIGNS_ON)]
    queries, names = dict[str, str](), _names(random.Random(0))
    for number in range(COUNT):
        generator, font = random.Random(number), FONTS[number // 3 % len(FONTS)]
        make = (receipt, screenshot, slide)[number % 3]
        image, query = make(generator, next(names), font)
        queries[_save(image, home / f"a/{number:03d}.png")] = query
    for number, (_, content) in enumerate(photographs):
        generator, font = random.Random(COUNT + number), FONTS[number % len(FONTS)]
        image, query = sign(generator, next(names), font, Image.open(io.BytesIO(content)).convert("RGB"))
        queries[_save(image, home / f"b/{number:03d}.jpg")] = query
    return queries


def copy_photographs(home: Path, data: Path) -> dict[str, str]:
    """Write photographs as they are (c), without their labels in their names; return what they are called in `data`."""
    sources = {}
    for number, (name, content) in enumerate([*_coco(data), *_of_test_split(data, AS_THEY_ARE)]):
        path = home / f"c/{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        sources[f"c/{path.name}"] = name
    return sources


def _coco(data: Path) -> list[tuple[str, bytes]]:
    return [(path.name, path.read_bytes()) for path in sorted((data / "coco").glob("*.jpg"))]


def _of_test_split(data: Path, counts: dict[str, int]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(data / "photos" / "test.tar") as tar:
        names = [name for name in tar.getnames() if name.endswith(".jpg")]
        for source, count in counts.items():
            found = [name for name in names if name.startswith(f"{source}-")]
            for name in sorted(found, key=lambda name: hashlib.sha256(name.encode()).digest())[:count]:
                member = tar.extractfile(name)
                assert member
                yield name, member.read()


def _names(generator: random.Random) -> Iterator[str]:
    """Yield invented names, each once."""
    seen = set[str]()
    while True:
        name = "".join(generator.sample(_SYLLABLES, 2)).capitalize() + generator.choice(_ENDINGS)
        if name not in seen:
            seen.add(name)
            yield name


def _save(image: Image.Image, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():  # so that an index keeps it
        image.save(path, quality=85)
    return f"{path.parent.name}/{path.name}"


def receipt(generator: random.Random, name: str, font: Path) -> tuple[Image.Image, str]:
    """Return a receipt, and its shop or its total."""
    size, width = generator.randint(18, 28), generator.randint(420, 620)
    body, title = ImageFont.truetype(font, size), ImageFont.truetype(font, int(1.5 * size))
    shop, cents = f"{name} {generator.choice(_PLACES)}", [generator.randint(49, 2999) for _ in range(8)]
    goods = generator.sample(_GOODS, generator.randint(4, 8))
    bought = list(zip(goods, cents[: len(goods)], strict=True))
    total = _money(sum(price for _, price in bought))
    image = Image.new("RGB", (width, int(size * 1.6 * (len(bought) + 8))), generator.choice(_PAPERS[:2]))
    pen, line = ImageDraw.Draw(image), int(size * 1.6)
    pen.text((width / 2, line), shop, "black", title, "mm")
    pen.text((width / 2, 2.2 * line), f"{generator.randint(1, 30)} Mill Street", "#333", body, "mm")
    for row, (article, price) in enumerate([*bought, ("Total", sum(price for _, price in bought))]):
        height = (3.5 + row + (article == "Total")) * line
        pen.text((24, height), article, "black", body, "lm")
        pen.text((width - 24, height), _money(price), "black", body, "rm")
    date = f"{generator.randint(1, 28):02d}.{generator.randint(1, 12):02d}.2025"
    pen.text((width / 2, image.height - line), date, "#333", body, "mm")
    return image, shop if generator.random() < 0.5 else f"Total {total}"


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def screenshot(generator: random.Random, name: str, font: Path) -> tuple[Image.Image, str]:
    """Return a screenshot of an editor with a message, and its title or the error's code."""
    image = Image.new("RGB", (1280, 800), "#f2f2f2")
    pen, small, normal = ImageDraw.Draw(image), ImageFont.truetype(font, 17), ImageFont.truetype(font, 20)
    title, code = f"{name} {generator.choice(_PROGRAMS)}", f"0x{generator.randrange(16**6):06X}"
    pen.rectangle((0, 0, 1280, 40), "#3b4252")
    pen.text((640, 20), title, "white", normal, "mm")
    for place, word in enumerate(("File", "Edit", "View", "Tools", "Help")):
        pen.text((20 + 80 * place, 60), word, "#222", small, "lm")
    pen.rectangle((0, 80, 1280, 800), generator.choice(("white", "#1e1e2e")))
    for row in range(22):
        words = generator.choices(_TOPICS + _GOODS + _KINDS, k=generator.randint(3, 11))
        pen.text((40, 110 + 30 * row), " ".join(words), "#7a8190", small, "lm")
    pen.rectangle((380, 300, 900, 500), "#fafafa", "#888")
    pen.text((400, 340), f"Error {code}", "#a00", normal, "lm")
    pen.text(
        (400, 390), f"The {generator.choice(_TOPICS)} {generator.choice(_KINDS)} was not saved.", "#222", small, "lm"
    )
    pen.text((860, 470), "OK", "#222", small, "mm")
    return image, title if generator.random() < 0.5 else f"error {code}"


def slide(generator: random.Random, name: str, font: Path) -> tuple[Image.Image, str]:
    """Return a slide, and its title."""
    paper = generator.choice(_PAPERS)
    ink = "white" if paper == "#20242c" else "#1c2733"
    image = Image.new("RGB", (1280, 720), paper)
    pen, body, large = ImageDraw.Draw(image), ImageFont.truetype(font, 30), ImageFont.truetype(font, 52)
    title = f"{name} {generator.choice(_TOPICS)} {generator.choice(_KINDS)}"
    pen.text((80, 110), title, ink, large, "lm")
    for row in range(generator.randint(3, 6)):
        words = generator.sample(_TOPICS, generator.randint(2, 5))
        pen.text((110, 230 + 75 * row), f"• {' '.join(words)}", ink, body, "lm")
    pen.text((1220, 680), str(generator.randint(2, 60)), ink, body, "rm")
    return image, title


def sign(generator: random.Random, name: str, font: Path, photograph: Image.Image) -> tuple[Image.Image, str]:
    """Return a photograph with a turned and blurred sign, and the sign's words; the least contrast is a quarter."""
    scale = SHORT_SIDE / min(photograph.size)
    image = photograph.resize((round(photograph.width * scale), round(photograph.height * scale)))
    words = [name, generator.choice(_PLACES)]
    letters = ImageFont.truetype(font, generator.randint(26, 64))
    dark = [generator.randint(0, 120) for _ in range(3)]
    light = [min(255, value + generator.randint(64, 200)) for value in dark]
    paper, ink = (tuple(light), tuple(dark)) if generator.random() < 0.6 else (tuple(dark), tuple(light))
    text = (" " if generator.random() < 0.5 else "\n").join(words)
    left, top, right, bottom = ImageDraw.Draw(image).multiline_textbbox((0, 0), text, letters, align="center")
    pad = letters.size * 0.5
    board = Image.new("RGBA", (int(right - left + 2 * pad), int(bottom - top + 2 * pad)), paper)
    ImageDraw.Draw(board).multiline_text((pad - left, pad - top), text, ink, letters, align="center")
    board = board.rotate(generator.uniform(-TURN, TURN), Image.Resampling.BICUBIC, expand=True)
    board = board.filter(ImageFilter.GaussianBlur(generator.uniform(0, BLUR)))
    image.paste(board, [max(0, generator.randint(0, max(0, image.size[i] - board.size[i]))) for i in (0, 1)], board)
    return image, " ".join(words)
