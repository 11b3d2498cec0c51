"""Read the unpacked sources as drawings: an SVG with its label, tags, licence and attribution.

Emoji styles take their names and tags from emojibase. Of Open Clip Art only images whose title (or, in some
series, whose file name) says in English what is drawn are used, and only under a public-domain dedication.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from perception_encoder.errors import DataError, one_line
from synthetic.drawings.sources import DrawingSource

PEN_WIDTH = 1 / 40  # of the longer side
EMOJI_COMPONENTS = (None, 2)  # emojibase groups of parts: regional letters, skin tones, hair

# Open Clip Art: series without a name for each image, or that a text cannot tell apart.
DROPPED_TITLES = re.compile(
    r"gramastar|flat icon|clipart by|\bflags?\b|\bcard\b|lemon svg theme|etiquette icons|blueberry - iconset|"
    r"gold-theme|plastik-icon-theme|svg gradient|various cliparts|advertising|boating rules|bullet hole|"
    r"simple arrows|elder sign|^people$",
    re.IGNORECASE,
)
DROPPED_DIRECTORIES = re.compile(r"/(flags|cards|gradients|led|semaphore|themes?)/")
# Series whose images are named by their files.
FILE_NAMED_TITLES = re.compile(
    r"AIGA_Symbol_Signs|Road Signs|R16 sibmission|Sallite|Map Symbols|Homes Clipart|Australian Maps"
)
FOREIGN_CREATORS = re.compile(r"rollandin|GUILLOU", re.IGNORECASE)  # Italian and French titles
TITLE_NOISE = re.compile(
    r"aiga|\d+ symbol \w+ bwh|zazou|\(?b ?(&|and) ?w\)?|\bbw\b|- rpg map elements|- body part|- clothing|"
    r"\b(generic|hotel icon|icon|clip ?art|silhouette)\b|\([^)]*\)|\.svg|\b\d+\b|#\S+|\d+$",
    re.IGNORECASE,
)
DROPPED_TAGS = frozenset(
    (
        *("hash", "icon", "icons", "theme", "unsorted", "mapsym", "appicon", "networksym", "mimetypes", "mime-types"),
        *("special", "symbol", "sign", "signs_and_symbols", "shape", "simple", "openclipart"),
        *("computer", "menu", "office", "tools", "work"),
    )
)
LONGEST_LABEL = 6  # words


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One image that is still an SVG."""

    key: str
    """Unique within its source; letters, digits, `_` and `-`."""
    svg: bytes
    label: str
    tags: tuple[str, ...] = ()
    attribution: str = ""
    licence: str = ""
    rank: int = 0
    """Of two near-duplicates the one of lower rank stays."""


def read_emoji(icons: Path, names: Path, source: DrawingSource) -> Iterator[Drawing]:
    """Read one emoji style from the roots of its icon package and of emojibase; one drawing a concept."""
    drawn = _read_json(icons / "icons.json")
    by_code = {_plain_code(code): name for code, name in _read_json(icons / "chars.json").items()}
    for emoji in _read_json(names / "en" / "data.json"):
        name = by_code.get(_plain_code(emoji["hexcode"]))
        name = drawn.get("aliases", {}).get(name, {}).get("parent", name)
        if emoji.get("group") in EMOJI_COMPONENTS or name not in drawn["icons"]:
            continue
        icon = drawn["icons"][name]
        width, height = (icon.get(side, drawn.get(side, 16)) for side in ("width", "height"))
        left, top, line = icon.get("left", 0), icon.get("top", 0), PEN_WIDTH * max(width, height) if source.pen else 0
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left - line} {top - line} {width + 2 * line} {height + 2 * line}">'
            f"{_pen(source, line)}{icon['body']}</svg>"
        )
        label = _emoji_label(emoji["label"])
        tags = tuple(tag.lower() for tag in emoji.get("tags", []) if tag.lower() != label)
        yield Drawing(
            key=emoji["hexcode"].lower(),
            svg=svg.encode(),
            label=label,
            tags=tags,
            attribution=source.attribution,
            licence=source.licence,
        )


def _pen(source: DrawingSource, width: float) -> str:
    """A stylesheet by which a black pen goes over every shape; `line`: and nothing else is drawn."""
    if not source.pen:
        return ""
    bare = "; fill: #fff !important; fill-opacity: 0 !important" if source.pen == "line" else ""
    stroke = f"stroke: #000 !important; stroke-width: {width} !important; stroke-linejoin: round; stroke-linecap: round"
    return f"<style>* {{{stroke}{bare}}}</style>"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} is missing or damaged in the fetched package: {one_line(error)}") from error


def _plain_code(code: str) -> str:
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def _emoji_label(label: str) -> str:
    label = re.sub(r"^flag: ", "flag of ", label)
    label = re.sub(r"^keycap: ", "keycap ", label)
    return label.replace(": ", ", ").replace("“", "").replace("”", "").lower()


def read_openclipart(root: Path, source: DrawingSource) -> Iterator[Drawing]:
    """Read the usable images of the unpacked `openclipart-svg` package."""
    directory = root / "usr" / "share" / "openclipart" / "svg"
    paths = sorted(directory.rglob("*.svg"))
    if not paths:
        raise DataError(f"no *.svg under {directory.relative_to(root)} of the fetched package")
    for path in paths:
        svg = path.read_bytes()
        svg = gzip.decompress(svg) if svg[:2] == b"\x1f\x8b" else svg
        drawing = _read_clipart(svg, path.relative_to(directory), source)
        if drawing is not None:
            yield drawing


def _read_clipart(svg: bytes, path: Path, source: DrawingSource) -> Drawing | None:
    try:
        work = next((e for e in ElementTree.fromstring(svg).iter() if _tag(e) == "Work"), None)
    except ElementTree.ParseError:
        return None
    if work is None:
        return None
    title = _text(work, "title")
    licence = next((v for e in work if _tag(e) == "license" for k, v in e.items() if k.endswith("resource")), "")
    if "publicdomain" not in licence.lower() or DROPPED_TITLES.search(title):
        return None
    if DROPPED_DIRECTORIES.search(f"/{path.as_posix()}"):
        return None
    creator = next((_text(e, "title") for e in work.iter() if _tag(e) == "creator" and len(e)), "")
    raw_tags = [(e.text or "").strip().lower() for e in work.iter() if _tag(e) == "li"]
    if {"flag", "flags", "signalflag"} & set(raw_tags):
        return None
    tags = _clean_tags(raw_tags, path, creator)
    label = _clipart_label(title, path, creator, tags)
    if not label:
        return None
    key = re.sub(r"[^a-z0-9_-]+", "_", path.with_suffix("").as_posix().lower().replace("/", "-"))
    general = path.parts[0] in ("computer", "unsorted", "signs_and_symbols", "special")
    return Drawing(
        key=key,
        svg=svg,
        label=label,
        tags=tuple(tag for tag in tags if tag != label),
        attribution=f"{creator}, {source.attribution}" if creator else source.attribution,
        licence=source.licence,
        rank=int(general),
    )


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(parent: ElementTree.Element, name: str) -> str:
    return next(((e.text or "").strip() for e in parent.iter() if _tag(e) == name), "")


def _clipart_label(title: str, path: Path, creator: str, tags: tuple[str, ...]) -> str:
    """What the image shows, in a few lower-case English words; empty if nothing says it."""
    if FOREIGN_CREATORS.search(creator) or title.lower() == creator.lower():
        return tags[0] if tags else ""
    if FILE_NAMED_TITLES.search(title):
        title = path.stem
    label = _words(TITLE_NOISE.sub(" ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", title).replace("_", " ")))
    if not re.search(r"[a-z]{3}", label) or len(label.split()) > LONGEST_LABEL:
        return tags[0] if tags else ""
    return label


def _clean_tags(raw: list[str], path: Path, creator: str) -> tuple[str, ...]:
    """The usable tags, the directory's own name first."""
    parent = path.parent.name
    names = [] if parent in DROPPED_TAGS or path.parts[0] in DROPPED_TAGS else [_singular(parent)]
    for tag in raw:
        if tag in DROPPED_TAGS or re.search(r"\d|hash|theme", tag) or tag == creator.lower():
            continue
        names += tag.split() if len(tag.split()) > 3 else [tag]
    words = (_words(tag) for tag in names)
    return tuple(dict.fromkeys(tag for tag in words if len(tag) > 2 and tag not in DROPPED_TAGS))


def _words(text: str) -> str:
    """Lower-case words; hyphens stay only after a single letter (t-shirt)."""
    text = re.sub(r"\bt shirt", "t-shirt", re.sub(r"(?<!\b[a-z])-|[^a-z0-9'é -]+", " ", text.lower()))
    return " ".join(re.sub(r" '|' ", " ", text).split())


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
