"""Read from EXIF when, where and with which camera an image was taken."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

_CHARACTERS = 100  # of a camera's name


@dataclass(frozen=True, kw_only=True)
class Taken:
    """When, where and with which camera an image was taken, as far as it says."""

    date: datetime | None = None
    """In the camera's local time."""
    lat: float | None = None
    """Degrees north."""
    lon: float | None = None
    """Degrees east."""
    camera: str = ""
    """Maker and model, such as "Canon EOS R6"."""


def read_exif(exif: Image.Exif) -> Taken:
    """Return what EXIF says; a damaged part counts as missing."""
    date: datetime | None = None
    place: tuple[float, float] | None = None
    camera = ""
    with suppress(Exception):  # damaged EXIF may raise anything
        times: dict[int, Any] = exif.get_ifd(ExifTags.IFD.Exif)
        date = _date(times.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime))
    with suppress(Exception):
        place = _place(exif.get_ifd(ExifTags.IFD.GPSInfo))
    with suppress(Exception):
        camera = _camera(exif.get(ExifTags.Base.Make), exif.get(ExifTags.Base.Model))
    lat, lon = place or (None, None)
    return Taken(date=date, lat=lat, lon=lon, camera=camera)


def _date(value: Any) -> datetime | None:
    return None if value is None else datetime.strptime(str(value), "%Y:%m:%d %H:%M:%S")


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
