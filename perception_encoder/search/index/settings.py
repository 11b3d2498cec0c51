"""The settings of an index: its model and how its videos were cut. A directory without them has no index."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perception_encoder.files import write_json

SETTINGS = "settings.json"
LAYOUT = 1
"""Version of the table's layout; an index of another version has to be rebuilt."""
_TYPES = {"source": str, "model": str, "weight_hash": str, "dimension": int, "moments": dict}


def read_settings(directory: Path) -> dict[str, Any]:
    """Read the settings in an index's directory; OSError or ValueError if they are unreadable or invalid."""
    try:
        settings = json.loads((directory / SETTINGS).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{SETTINGS} is nested too deep") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{SETTINGS} is not a JSON object")
    if settings.get("layout") == LAYOUT:
        _check(settings)
    return settings


def _check(settings: Mapping[str, Any]) -> None:
    for name, kind in {**_TYPES, "root": str}.items():
        value = settings.get(name, "" if name == "root" else None)
        if not isinstance(value, kind):
            raise ValueError(f"{SETTINGS}: {name} is {str(value)[:80]!r}, not a {kind.__name__}")
    for name, value in settings["moments"].items():
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"{SETTINGS}: {name} is {str(value)[:80]!r}, not a positive number")


def salvage_settings(directory: Path) -> dict[str, Any] | None:
    """Read the settings of an index of any layout, even if its table is damaged; None if they are unreadable."""
    try:
        settings = read_settings(directory)
        _check(settings)
    except (OSError, ValueError):
        return None
    return settings


def write_settings(directory: Path, settings: Mapping[str, Any]) -> None:
    """Write settings, whole or not at all; OutputError if that fails."""
    write_json(directory / SETTINGS, settings, through_link=False)


def identify(directory: Path) -> tuple[int, int] | None:
    """Return what distinguishes an index from a later one in the same directory; None if there is no index."""
    try:
        status = (directory / SETTINGS).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
