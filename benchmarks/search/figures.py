"""Figures as the parts note them and the page shows them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TypeAlias

Row: TypeAlias = tuple[str, str, str]
"""What was measured, what came out, and the aim with whether it is reached."""


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of all lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    """The middle of some values."""
    return statistics.median(values)


def mark(reached: bool) -> str:
    """Whether an aim is reached, as other pages show it."""
    return "✓" if reached else "✗"
