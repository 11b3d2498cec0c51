"""Contact sheets: images with captions on one HTML page that opens without a server.

A page embeds its thumbnails as data URIs, has no script, and fetches nothing (its own policy forbids both). The
templates escape all text (names, queries, labels). Pages are written a tile at a time, so that a long one needs no more
memory than a short one.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.files import replacing, writing
from perception_encoder.formats.standalone_page import page_head, parse_template
from perception_encoder.preprocess.image import encode_thumbnail

THUMBNAIL_SIDE = 400
"""Longest side of a thumbnail, in pixels: twice its size on the page, for screens with two pixels a point."""
_DIRECTORY = files("perception_encoder.search.web")


@dataclass(frozen=True, kw_only=True)
class Tile:
    """An image or video of a sheet."""

    image: Image.Image | None
    """None if it cannot be opened any more."""
    caption: str
    hint: str = ""
    """The whole name, shown on hover."""
    value: str = ""
    """A score or a probability, beside the caption."""
    details: tuple[str, ...] = ()
    """Further lines beneath."""
    share: float | None = None
    """Length of the bar beneath the image, in 0–1."""
    time: float | None = None
    """The image's second in its video."""
    link: str | None = None
    """The target of a click: see `link_to`."""

    @property
    def ratio(self) -> float:
        """Width by height, within limits."""
        return min(max(self.image.width / self.image.height, 0.6), 2.0) if self.image else 1.0


@dataclass(frozen=True, kw_only=True)
class Section:
    """A row of a sheet: a query and its hits, or a label and its images."""

    heading: str
    tiles: Iterable[Tile]
    image: Image.Image | None = None
    """The image of the query, if it has one."""
    note: str = ""


def write_contact_sheet(path: Path, title: str, note: str, sections: Iterable[Section]) -> None:
    """Write a page, whole or not at all; OutputError if that fails, ConfigError if its name does not end in .html."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{path}: a page's name ends in .html")
    with (
        writing(path),
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(contact_sheet(title, note, sections))


def contact_sheet(title: str, note: str, sections: Iterable[Section]) -> Iterator[str]:
    """Yield the page in pieces."""
    yield page_head(title, note, _read("contact_sheet.css"))
    yield from parse_template(_read("contact_sheet.html")).generate(sections=sections, data_uri=data_uri, clock=clock)


def _read(name: str) -> str:
    return (_DIRECTORY / name).read_text(encoding="utf-8")


def clock(seconds: float) -> str:
    """Format a time as m:ss or h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def data_uri(image: Image.Image) -> str:
    """Return a thumbnail as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_thumbnail(image, THUMBNAIL_SIDE)).decode("ascii")


def link_to(target: Path | str, page: Path) -> str:
    """Return a link from a page to a file (relative, so that both can move together) or to an http(s) address."""
    if isinstance(target, str):
        return target if target.startswith(("http://", "https://")) else ""
    try:
        return quote(Path(os.path.relpath(target, page.parent)).as_posix().encode(errors="surrogateescape"))
    except ValueError:  # another drive
        return target.absolute().as_uri()
