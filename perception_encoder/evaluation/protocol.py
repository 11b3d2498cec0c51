"""What evaluators yield."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A measured figure."""

    name: str
    value: float
    """With the unit "%": a share, in [0, 1], or a difference of two."""
    n: int
    """How many items it was measured on."""
    ci: tuple[float, float] | None
    """95 % confidence interval; None where there is none to be had, of one block or one seed of a fitted head."""
    unit: str = "%"
    """Of the value; "m" for metres, empty for a plain number."""
    lower_is_better: bool = False
