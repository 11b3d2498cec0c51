"""Read what an image's metadata say: when, where and with which camera it was taken, its title and keywords."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from PIL import ExifTags, Image, IptcImagePlugin
from PIL.ImageFile import ImageFile

_CHARACTERS, _TITLE_CHARACTERS = 100, 2000  # of a camera's name; of titles and keywords
_EXIF_TITLES = (0x010E, 0x9C9B, 0x9C9C, 0x9C9E, 0x9C9F)  # description; Windows' title, comment, keywords and subject
_IPTC_TITLES = ((2, 5), (2, 105), (2, 120), (2, 25))  # title, headline, caption, keywords
_PNG_TITLES = ("Title", "Description")
_XMP_TITLE = re.compile(rb"<dc:(?:title|description|subject)>(.*?)(?:</dc:|\Z)", re.DOTALL)
_XMP_ITEM = re.compile(rb"<rdf:li[^<>]*>([^<]+)</rdf:li>")
_DATE = re.compile(
    r"(\d{4})[:-](\d\d?)[:-](\d\d?)(?:[T ]+(\d\d?):(\d\d?)(?::(\d\d?))?(?:[.,]\d*)?\s*(?:Z|[+-][\d:]+)?)?"
)
_XMP_DATE = re.compile(
    rb"""\b(?:exif:DateTimeOriginal|photoshop:DateCreated|xmp:CreateDate)(?:\s*=\s*["']|>)([^"'<]{10,40})"""
)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """When, where and with which camera an image was taken, and what it is called, as far as it says."""

    date: datetime | None = None
    """In the camera's local time."""
    lat: float | None = None
    """Degrees north."""
    lon: float | None = None
    """Degrees east."""
    camera: str = ""
    """Maker and model, such as "Canon EOS R6"."""
    title: str = ""
    """Title, caption and keywords of EXIF, IPTC and XMP, each once."""


def read_exif(image: Image.Image) -> Taken:
    """Return what an image's EXIF, XMP and IPTC say; a damaged part counts as missing."""
    exif, dates = image.getexif(), list[Any]()
    place: tuple[float, float] | None = None
    camera = ""
    with suppress(Exception):  # damaged EXIF may raise anything
        times: dict[int, Any] = exif.get_ifd(ExifTags.IFD.Exif)
        dates += [times.get(ExifTags.Base.DateTimeOriginal), exif.get(ExifTags.Base.DateTime)]
    with suppress(Exception):
        dates += [date.decode() for date in _XMP_DATE.findall(image.info.get("xmp", b""))]
    with suppress(Exception):
        place = _place(exif.get_ifd(ExifTags.IFD.GPSInfo))
    with suppress(Exception):
        camera = _camera(exif.get(ExifTags.Base.Make), exif.get(ExifTags.Base.Model))
    lat, lon = place or (None, None)
    date = next(filter(None, map(_date, dates)), None)
    return Taken(date=date, lat=lat, lon=lon, camera=camera, title=_title(image, exif))


def _title(image: Image.Image, exif: Image.Exif) -> str:
    """Return titles, captions and keywords, one after the other."""
    texts: list[Any] = [image.info.get(name) for name in _PNG_TITLES]
    with suppress(Exception):
        texts += [exif.get(tag) for tag in _EXIF_TITLES]
    with suppress(Exception):
        about: dict[Any, Any] = IptcImagePlugin.getiptcinfo(cast(ImageFile, image)) or {}
        for tag in _IPTC_TITLES:
            found = about.get(tag, [])
            texts += found if isinstance(found, list) else [found]
    with suppress(Exception):
        xmp = image.info.get("xmp", b"")
        texts += [item for part in _XMP_TITLE.findall(xmp) for item in _XMP_ITEM.findall(part)]
    return " · ".join(dict.fromkeys(filter(None, map(_text, texts))))[:_TITLE_CHARACTERS]


def _text(value: Any) -> str:
    """Return a text of metadata on one line: UTF-8, which Pillow reads as Latin-1 in EXIF, or Windows' UTF-16."""
    with suppress(UnicodeError):
        value = value.rstrip("\0").encode("latin-1") if isinstance(value, str) else value
    if isinstance(value, bytes):
        for encoding in ("utf-16-le",) if b"\0" in value[:-1] else ("utf-8", "latin-1"):
            with suppress(UnicodeError):
                value = value.decode(encoding)
                break
    text = html.unescape(value) if isinstance(value, str) else ""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _date(value: Any) -> datetime | None:
    """Return the time on the camera's clock, in the form of EXIF or ISO 8601; None for a date that cannot be."""
    found = _DATE.fullmatch(str(value).strip("\0 \n"))
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups())
    with suppress(ValueError):
        return datetime(year, month, day, hour, minute, second)
    return None


def _place(gps: Mapping[int, Any]) -> tuple[float, float] | None:
    """Return latitude and longitude in degrees; None for 0, 0, which cameras write without a fix."""
    tags, degrees = ExifTags.GPS, []
    for angle, reference, signs, limit in (
        (tags.GPSLatitude, tags.GPSLatitudeRef, {"N": 1, "S": -1}, 90),
        (tags.GPSLongitude, tags.GPSLongitudeRef, {"E": 1, "W": -1}, 180),
    ):
        whole, minutes, seconds = (float(part) for part in gps[angle])
        value = whole + minutes / 60 + seconds / 3600
        if not (0 <= value <= limit and 0 <= minutes <= 60 and 0 <= seconds <= 60):  # nor NaN
            return None
        sign = signs[str(gps[reference]).strip("\0 ").upper()]
        degrees.append(round(sign * value, 6) + 0.0)  # no -0
    return (degrees[0], degrees[1]) if any(degrees) else None


def _camera(*names: Any) -> str:
    maker, model = (
        " ".join("".join(letter if letter.isprintable() else " " for letter in str(name or "")).split())
        for name in names
    )
    known = model.lower().startswith(maker.split(" ")[0].lower())
    return (model if known else f"{maker} {model}".strip())[:_CHARACTERS]
