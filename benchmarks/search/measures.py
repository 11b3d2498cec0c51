"""Small parts of the benchmark's page: its rows, quantiles and marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Row: TypeAlias = tuple[str, str, str]
"""What was measured, the result, and the aim with a mark whether it is reached."""


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of all lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def mark(reached: bool) -> str:
    """Return a mark for an aim that is reached or missed."""
    return "✓" if reached else "✗"
