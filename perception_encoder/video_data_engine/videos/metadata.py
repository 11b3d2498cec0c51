"""Read what people said about a video: the JSON file beside it, tags of its container, the text of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perception_encoder.errors import InputError, one_line
from perception_encoder.formats.tars import TarMember

FIELDS = {
    "title": ("title", "video_title", "fulltitle"),
    "description": ("description", "comment", "synopsis"),
    "keywords": ("keywords", "tags"),
    "category": ("category_name", "category", "categories", "genre"),
}
"""Our field → names in files and tags, the first that holds a text."""
LONGEST = 2000
"""Characters of a text; the rest of a longer one is cut off."""
MOST_BYTES = 16 << 20
_JOINERS = "\u200c\u200d"
"""Unprintable, but part of words in Persian and Hindi, and of emoji."""


def read_metadata_fields(
    sidecar: Path | TarMember | None, tags: Mapping[str, Any], text: str | None
) -> tuple[dict[str, str], list[str]]:
    """Return the `FIELDS` that are known, and what is wrong with the sidecar.

    A sidecar comes before the container's tags; `text`, a table's, is the description if the others lack one.
    """
    problems: list[str] = []
    sources: list[Mapping[str, Any]] = []
    if sidecar is not None:
        try:
            sources.append(_read(sidecar))
        except (OSError, ValueError, RecursionError, InputError) as error:
            problems.append(f"its JSON file cannot be read: {one_line(error)}"[:300])
    sources += [{name.lower(): value for name, value in tags.items()}, {"description": text}]
    fields = {}
    for field, names in FIELDS.items():
        values = (_as_text(source.get(name)) for source in sources for name in names)
        if value := next(filter(None, values), ""):
            fields[field] = value
    return fields, problems


def _read(sidecar: Path | TarMember) -> Mapping[str, Any]:
    if isinstance(sidecar, Path):
        if sidecar.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        content = sidecar.read_bytes()
    else:
        content = sidecar.read(str(sidecar.tar))
    value = json.loads(content.decode("utf-8-sig"))
    if not isinstance(value, dict):
        raise ValueError("it holds no object")
    return value


def _as_text(value: Any) -> str:
    """A text, or a list of texts with commas, on one line; empty for anything else."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        value = ", ".join(value)
    if not isinstance(value, str):
        return ""
    text = " ".join("".join(c if c.isprintable() or c.isspace() or c in _JOINERS else " " for c in value).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
