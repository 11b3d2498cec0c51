"""The settings of an index: whose vectors it holds. An index without them is none."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perception_encoder.files import replacing

SETTINGS = "settings.json"
LAYOUT = 1
"""Number of the layout of the table; an index of another one is made anew."""
_KINDS = {"source": str, "model": str, "weight_hash": str, "dimension": int, "moments": dict}


def read_settings(place: Path) -> dict[str, Any]:
    """The settings in an index's own folder; OSError or ValueError if they cannot be read or are not such."""
    try:
        settings = json.loads((place / SETTINGS).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{SETTINGS} is nested too deep") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{SETTINGS} is no JSON object")
    if settings.get("layout") == LAYOUT:
        _check(settings)
    return settings


def _check(settings: Mapping[str, Any]) -> None:
    for name, kind in _KINDS.items():
        if not isinstance(settings.get(name), kind):
            raise ValueError(f"{SETTINGS}: {name} is {str(settings.get(name))[:80]!r}, not a {kind.__name__}")
    if not isinstance(settings.get("root", ""), str):
        raise ValueError(f"{SETTINGS}: root is {str(settings['root'])[:80]!r}, not a str")
    for name, value in settings["moments"].items():
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"{SETTINGS}: {name} is {str(value)[:80]!r}, not a positive number")


def salvage_settings(place: Path) -> dict[str, Any] | None:
    """The settings of an index of any layout, its table sound or not; None if they cannot be read."""
    try:
        settings = read_settings(place)
        _check(settings)
    except (OSError, ValueError):
        return None
    return settings


def write_settings(place: Path, settings: Mapping[str, Any]) -> None:
    """Write settings, whole or not at all; OSError where that fails."""
    with replacing(place / SETTINGS, through_link=False) as temporary:
        temporary.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def identify(place: Path) -> tuple[int, int] | None:
    """What tells an index from one that is made later in its place; None where there is none."""
    try:
        status = (place / SETTINGS).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
