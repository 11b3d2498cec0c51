"""What the page asks for, as one line a term: "text:2:dog - snow", "like:ID", "-0.5:image:ID"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from perception_encoder.errors import ConfigError
from perception_encoder.inference.media import Media
from perception_encoder.search.query.query import parse_line

_LINE = re.compile(r"(?:(?P<weight>-?\d{1,4}(?:\.\d{1,4})?):)?(?P<kind>text|like|image):(?P<what>.*)", re.ASCII)
_MOST = 32  # terms


@dataclass(frozen=True, kw_only=True)
class AskedTerm:
    """A part of a query."""

    weight: float
    """How much it counts; a negative one looks away."""
    kind: str
    """"text", "like" or "image"."""
    what: str
    """The text, the id of a row, or the id of an image or video that was uploaded."""


def parse_asked(asked: str) -> list[AskedTerm]:
    """The terms of a query, those of a text one by one.

    A line is [WEIGHT:]text:LINE, as `parse_line` takes it, [WEIGHT:]like:ID or [WEIGHT:]image:ID. Raises ConfigError
    for anything else.
    """
    terms = []
    for line in asked.split("\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ConfigError(f"{line!r} is no query; it must be text:…, like:ID or image:ID")
        weight, kind, what = float(match["weight"] or 1), match["kind"], match["what"]
        if kind != "text":
            terms.append(AskedTerm(weight=weight, kind=kind, what=what))
            continue
        for term in parse_line(what).terms:
            assert isinstance(term.what, Media)  # a line holds texts only
            terms.append(AskedTerm(weight=weight * term.weight, kind=kind, what=str(term.what.payload)))
    if len(terms) > _MOST:
        raise ConfigError(f"a query of {len(terms)} terms; it may have {_MOST}")
    return terms
