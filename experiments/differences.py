"""Differences of two scores with their intervals: as rows of JSON, and as pages print them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perception_encoder.layer_analysis.curve import LayerScore
from perception_encoder.layer_analysis.recommendation import format_difference

DIGITS = 5


def gain(own: LayerScore, other: LayerScore) -> dict[str, Any]:
    """Return how much better one score is than another: its unit, value and interval; of errors the sign is turned."""
    value = other.less(own) if own.lower_is_better else own.less(other)
    ends = value.interval()
    interval = None if ends is None else [round(end, DIGITS) for end in ends]
    return {"unit": own.unit, "value": round(value.value, DIGITS), "interval": interval}


def sign_of(row: Mapping[str, Any]) -> int:
    """Return 1 or −1 if the interval excludes zero, else 0."""
    low, high = row["interval"] or (0, 0)
    return int(low > 0) - int(high < 0)


def format_gain(row: Mapping[str, Any] | None) -> str:
    """Return a difference with its interval, bold if that excludes zero; nothing for None."""
    if row is None:
        return ""
    text = format_difference(row["value"], None, row["unit"])
    if row["interval"] is None:
        return text
    low, high = row["interval"]
    text += f" ({format_difference(low, high, row['unit'])})"
    return f"**{text}**" if sign_of(row) else text
