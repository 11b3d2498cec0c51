"""Check the dates in a condition of SQL: dates are texts, and any text could be compared with them without an error."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import takewhile

from perception_encoder.errors import ConfigError

_TOKEN = re.compile(r"'(?:[^']|'')*'|\w+|<=|>=|<>|!=|\S")
_COMPARISONS = ("=", "<", ">", "<=", ">=", "<>", "!=")
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d)?)?)?)?)?")
_FIRST = "0001-01-01T00:00:00"


def check_dates(condition: str) -> None:
    """Raise ConfigError if the column `date` is compared with what is no date."""
    tokens = _TOKEN.findall(condition)
    for place, token in enumerate(tokens):
        if token.lower() != "date":
            continue
        for literal in _compared(tokens[:place][::-1], tokens[place + 1 :]):
            if literal.startswith("'") and not _is_date(literal[1:-1]):
                raise ConfigError(
                    f"{literal} is not a date; dates look like '2024', '2024-07', '2024-07-31' or '2024-07-31T18:05:00'"
                )


def _compared(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    """Yield what a column is compared with, given the tokens before it (the nearest first) and after it."""
    if len(before) > 1 and before[0] in _COMPARISONS:
        yield before[1]
    if after and after[0].lower() == "not":
        after = after[1:]
    match [each.lower() for each in after[:1]]:
        case ["between"]:
            yield from after[1:4:2]
        case ["in"]:
            yield from takewhile(lambda each: each != ")", after[1:])
        case [comparison] if comparison in _COMPARISONS:
            yield from after[1:2]


def _is_date(text: str) -> bool:
    text = text.removesuffix("~")  # after every longer date that begins so
    try:
        return bool(_DATE.fullmatch(text) and datetime.fromisoformat(text + _FIRST[len(text) :]))
    except ValueError:
        return False
