"""Contact sheets: pictures with captions on one HTML page that opens without a server.

A page holds all it shows: thumbnails as data URIs, no script, nothing fetched (its own policy forbids both). Whatever
comes from outside (names, queries, labels) is escaped. Pages are made a tile at a time, so that a long one needs no
more memory than a short one.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.files import replacing, writing

THUMBNAIL_SIDE = 400
"""Longest side of a thumbnail, in pixels: twice what is shown, for screens with two pixels a point."""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{note}</p>
</header>
"""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture or clip of a sheet."""

    image: Image.Image | None
    """What is shown; None where it cannot be opened any more."""
    caption: str
    hint: str = ""
    """Shown when the tile is pointed at: the whole name."""
    figure: str = ""
    """A score or a probability, beside the caption."""
    details: tuple[str, ...] = ()
    """Further lines beneath."""
    share: float | None = None
    """Length of the bar beneath the picture, in 0–1."""
    time: float | None = None
    """Where in a clip the picture is from, in seconds."""
    link: str | None = None
    """Where a click leads: see `link_to`."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One row of a sheet: a query and its hits, or a label and what bears it."""

    heading: str
    tiles: Iterable[Tile]
    picture: Image.Image | None = None
    """A picture that is the query."""
    note: str = ""


def write_contact_sheet(path: Path, title: str, note: str, sections: Iterable[Section]) -> None:
    """Write a page, whole or not at all; OutputError where it cannot be written, ConfigError where it is no .html."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{path}: a page's name ends in .html")
    with (
        writing(path),
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(contact_sheet(title, note, sections))


def page_head(title: str, note: str, style: str) -> str:
    """The beginning of a page that stands alone: it loads nothing, and runs no scripts.

    `style`: its own rules, after those that all such pages share.
    """
    shared = (files("perception_encoder.search.web") / "standalone.css").read_text(encoding="utf-8")
    return _HEAD.format(policy=_POLICY, title=escaped(title), note=escaped(note), style=shared + style)


def contact_sheet(title: str, note: str, sections: Iterable[Section]) -> Iterator[str]:
    """Yield the page in pieces."""
    style = (files("perception_encoder.search.web") / "contact_sheet.css").read_text(encoding="utf-8")
    yield page_head(title, note, style)
    for section in sections:
        yield '<section>\n<div class="query">\n'
        if section.picture is not None:
            yield f'<img src="{data_uri(section.picture)}" alt="">\n'
        yield f"<h2>{escaped(section.heading)}</h2>\n</div>\n"
        if section.note:
            yield f"<p>{escaped(section.note)}</p>\n"
        yield '<ol class="tiles">\n'
        yield from map(_tile, section.tiles)
        yield "</ol>\n</section>\n"
    yield "</body>\n</html>\n"


def _tile(tile: Tile) -> str:
    if tile.image is None:
        ratio, shown = 1.0, '<span class="missing">no preview</span>'
    else:
        ratio = min(max(tile.image.width / tile.image.height, 0.6), 2.0)
        shown = f'<img src="{data_uri(tile.image)}" alt="{escaped(tile.caption)}">'
    if tile.time is not None:
        shown += f'<span class="time">{clock(tile.time)}</span>'
    link = f'a href="{escaped(tile.link)}"' if tile.link else "div"
    lines = [f'<{link} class="frame">{shown}</{link[:3].split()[0]}>']
    if tile.share is not None:
        lines.append(f'<div class="share"><i style="width: {100 * tile.share:.1f}%"></i></div>')
    lines.append(f'<div class="caption"><b>{_bidi(tile.caption)}</b><span>{escaped(tile.figure)}</span></div>')
    lines += [f'<div class="detail">{_bidi(detail)}</div>' for detail in tile.details]
    lines = [f'<li class="tile" style="--ratio: {ratio:.3f}" title="{escaped(tile.hint)}">', *lines, "</li>"]
    return "\n".join(lines) + "\n"


def escaped(value: str) -> str:
    """Escaped for text and attributes; what UTF-8 cannot hold, and control characters, are shown as escapes."""
    plain = value.encode("utf-8", "backslashreplace").decode()
    return escape("".join(c if c >= " " or c == "\n" else repr(c)[1:-1] for c in plain))


def _bidi(value: str) -> str:
    """Text that cannot turn its surroundings around, whatever marks of direction it holds."""
    return f"<bdi>{escaped(value)}</bdi>"


def clock(seconds: float) -> str:
    """A time as m:ss or h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def data_uri(image: Image.Image) -> str:
    """A thumbnail as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(thumbnail(image, THUMBNAIL_SIDE)).decode("ascii")


def thumbnail(image: Image.Image, side: int) -> bytes:
    """A JPEG with its longest side at most `side` pixels; transparent parts become white."""
    image = image.copy()
    image.thumbnail((side, side), reducing_gap=1.0)  # large ones are averaged first, which takes half the time
    if image.mode in ("RGBA", "LA"):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=82, optimize=True)
    return buffer.getvalue()


def link_to(target: Path | str, page: Path) -> str:
    """A link from a page to a file (relative, so that both can move together) or to an http(s) address."""
    if isinstance(target, str):
        return target if target.startswith(("http://", "https://")) else ""
    try:
        return quote(Path(os.path.relpath(target, page.parent)).as_posix().encode(errors="surrogateescape"))
    except ValueError:  # another drive
        return target.absolute().as_uri()
