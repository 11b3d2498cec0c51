"""Small parts of the benchmark's page: its rows, quantiles and check marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Row: TypeAlias = tuple[str, str, str]
"""The quantity, its value, and the aim with ✓ or ✗."""


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of all lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def mark(reached: bool) -> str:
    """Return ✓ for an aim that is reached, else ✗."""
    return "✓" if reached else "✗"
