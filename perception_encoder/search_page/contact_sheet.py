"""Contact sheets: images with captions on one HTML page that opens without a server.

Thumbnails are data URIs; the content security policy forbids scripts and requests, and the templates escape all text.
Pages are written tile by tile, so that memory stays flat.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from PIL import Image

from perception_encoder.errors import ConfigError, InputError
from perception_encoder.files import replacing, writing
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.image import encode_thumbnail
from perception_encoder.preprocess.media import Media, open_media
from perception_encoder.search.ranking import Hit, SearchResult, clock
from perception_encoder.search.storage.database import IndexRow

if TYPE_CHECKING:
    import jinja2

THUMBNAIL_SIDE = 400
"""Longest side of a thumbnail, in pixels: twice its size on the page, for high-density screens."""
_DIRECTORY = files("perception_encoder.search_page")


@dataclass(frozen=True, kw_only=True)
class Tile:
    """An image or video on a sheet; `value` is its score, `hint` its full name, `time` in its video in seconds."""

    image: Image.Image | None
    """None if the file can no longer be opened."""
    caption: str
    hint: str = ""
    value: str = ""
    why: str = ""
    """See `Hit.why`."""
    time: float | None = None
    link: str | None = None
    """The target of a click: see `link_to`."""

    @property
    def ratio(self) -> float:
        """Aspect ratio (width / height), within limits."""
        return min(max(self.image.width / self.image.height, 0.6), 2.0) if self.image else 1.0


@dataclass(frozen=True, kw_only=True)
class SheetSection:
    """A row of a sheet: a query and its hits, or a group of near-duplicates."""

    heading: str
    tiles: Iterable[Tile]
    image: Image.Image | None = None
    """The query's image, if any."""


def write_hits(path: Path, title: str, note: str, hits: SearchResult | Sequence[Sequence[Hit]]) -> None:
    """Write a page with the hits of queries, or with groups of near-duplicates: see `write_contact_sheet`."""
    sections = query_sections(hits, path) if isinstance(hits, SearchResult) else duplicate_sections(hits, path)
    write_contact_sheet(path, title, note, sections)


def write_contact_sheet(path: Path, title: str, note: str, sections: Iterable[SheetSection]) -> None:
    """Write a page atomically; OutputError if that fails, ConfigError if its name does not end in .html."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{path}: the name of a page must end in .html")
    with writing(path), replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(contact_sheet(title, note, sections))


def contact_sheet(title: str, note: str, sections: Iterable[SheetSection]) -> Iterator[str]:
    """Yield the page in pieces."""
    style, template = (_DIRECTORY.joinpath(f"contact_sheet.{kind}").read_text("utf-8") for kind in ("css", "html"))
    yield page_head(title, note, style)
    yield from parse_template(template).generate(sections=sections, data_uri=data_uri, clock=clock)


def data_uri(image: Image.Image) -> str:
    """Return a thumbnail as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_thumbnail(image, THUMBNAIL_SIDE)).decode("ascii")


def link_to(target: Path | str, page: Path) -> str:
    """Return a link from a page to a file (relative, so that they can move together) or to an http(s) address."""
    if isinstance(target, str):
        return target if target.startswith(("http://", "https://")) else ""
    try:
        return quote(Path(os.path.relpath(target, page.parent)).as_posix().encode(errors="surrogateescape"))
    except ValueError:  # another drive
        return target.absolute().as_uri()


def query_sections(result: SearchResult, page: Path) -> Iterator[SheetSection]:
    """Yield a section with the hits of each query, for a sheet at `page`."""
    for query, hits in zip(result.queries, result.by_query, strict=True):
        source = query.terms[0].source if query.kind in ("image", "video") else None
        image = open_preview(source) if isinstance(source, (Media, IndexRow)) else None
        yield SheetSection(heading=query.heading, tiles=_tiles(hits, page), image=image)


def duplicate_sections(groups: Sequence[Sequence[Hit]], page: Path) -> Iterator[SheetSection]:
    """Yield a section for each group of near-duplicates, for a sheet at `page`."""
    for number, group in enumerate(groups, 1):
        yield SheetSection(heading=f"Group {number}", tiles=_tiles(group, page))


def _tiles(hits: Sequence[Hit], page: Path) -> Iterator[Tile]:
    for hit in hits:
        source, name, score = hit.item.source, hit.path.rpartition("/")[2], f"{hit.score:.3f}"
        image, link = hit_image(hit), link_to(source, page) if isinstance(source, (Path, str)) else None
        yield Tile(image=image, caption=name, hint=hit.item.id, value=score, why=hit.why, time=hit.time, link=link)


def hit_image(hit: Hit) -> Image.Image | None:
    """Return the thumbnail of a hit's row, or without an index its image or frame; None if that cannot be opened."""
    try:
        source: Media | IndexRow = hit.row or hit.item.media()
        if hit.time is not None and isinstance(source, Media):
            source = replace(source, start=hit.time, end=hit.time)
        return open_preview(source)
    except InputError:
        return None


def open_preview(source: Media | IndexRow) -> Image.Image | None:
    """Open an image, a video's first frame, or a row's thumbnail; return None for a text."""
    if isinstance(source, IndexRow):
        return Image.open(io.BytesIO(source.thumbnail)) if source.thumbnail else None
    opened = open_media(source, frames=1)
    if isinstance(opened, VideoFrames):
        return opened.images[0]
    return opened if isinstance(opened, Image.Image) else None


def page_head(title: str, note: str, style: str) -> str:
    """Return the head of a standalone page, with its CSS rules (`style`) after the shared ones."""
    template, shared = ((_DIRECTORY / f"standalone.{kind}").read_text(encoding="utf-8") for kind in ("html", "css"))
    return parse_template(template).render(title=title, note=note, style=shared + style)


@cache
def parse_template(source: str) -> jinja2.Template:
    """Parse a template that escapes all text; control characters become visible escape sequences."""
    import jinja2  # here, for the start of `pe search`

    def plain(value: object) -> object:
        if type(value) is not str:  # such as what is marked as safe
            return value
        encodable = value.encode("utf-8", "backslashreplace").decode()
        return "".join(c if c >= " " or c == "\n" else repr(c)[1:-1] for c in encodable)

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, keep_trailing_newline=True, finalize=plain)
    return environment.from_string(source)
