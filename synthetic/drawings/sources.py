"""The public sources of the built-in model's drawings, as one table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from perception_encoder.errors import DataError

EMOJI_NAMES = "emojibase-data"  # MIT; names and tags of every emoji


@dataclass(frozen=True, kw_only=True)
class DrawingSource:
    """A public collection of drawings."""

    name: str
    """Its name here and the name of its shard."""
    registry: Literal["npm", "debian"]
    package: str
    split: Literal["train", "unseen"]
    """`unseen` is never trained on: it measures how well a model reads a style that it has not met."""
    licence: str
    """SPDX expression, or the words of the publisher."""
    attribution: str
    pen: Literal["", "outlined", "line"] = ""
    """How emoji are drawn over: their shapes outlined in black, or nothing but the lines."""
    near_duplicates: bool = False
    """Whether it holds the same image several times, so that all but one are to be dropped."""


PENS: tuple[Literal["outlined", "line"], ...] = ("outlined", "line")
NOTO = DrawingSource(
    name="noto",
    registry="npm",
    package="@iconify-json/noto",
    split="train",
    licence="Apache-2.0",
    attribution="Noto Emoji, Google Inc, https://github.com/googlefonts/noto-emoji",
)
TWEMOJI = DrawingSource(
    name="twemoji",
    registry="npm",
    package="@iconify-json/twemoji",
    split="train",
    licence="CC-BY-4.0",
    attribution="Twemoji, Twitter Inc and other contributors, https://github.com/jdecked/twemoji",
)

SOURCES: tuple[DrawingSource, ...] = (
    NOTO,
    TWEMOJI,
    *(
        replace(source, name=f"{source.name}_{pen}", pen=pen, attribution=f"{source.attribution}, drawn over")
        for source in (NOTO, TWEMOJI)
        for pen in PENS
    ),
    DrawingSource(
        name="openclipart",
        registry="debian",
        package="openclipart-svg",
        split="train",
        licence="public domain",
        attribution="Open Clip Art Library",
        near_duplicates=True,
    ),
    DrawingSource(
        name="openmoji",
        registry="npm",
        package="@iconify-json/openmoji",
        split="unseen",
        licence="CC-BY-SA-4.0",
        attribution="OpenMoji, https://openmoji.org",
    ),
)


def find_source(name: str) -> DrawingSource:
    """Look a source up by name; `DataError` lists the known ones."""
    for source in SOURCES:
        if source.name == name:
            return source
    raise DataError(f"unknown source {name!r}; known: {', '.join(source.name for source in SOURCES)}")
