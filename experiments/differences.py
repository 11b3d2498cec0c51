"""Differences of two scores: as rows of JSON, with the effect of seeds, and as the results page prints them.

A row holds the difference and its standard error over items. The effect of seeds is the variance among the seeds of one
kind of run, pooled over all kinds on the page, because two seeds that happen to agree would show none; if the two
compared runs differ more among their own seeds, it is theirs. A page claims what is significant after Holm's correction
for the number of its comparisons.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from perception_encoder.evaluation.statistics.bootstrap import (
    SIGNIFICANT,
    Estimate,
    Interval,
    Variance,
    holm,
    p_value,
    student_ends,
)
from perception_encoder.layer_analysis.sweep import LayerScore, format_difference

DIGITS = 5
BySeed = Sequence[float]
"""A score with each seed of a kind of run; empty if nothing is fitted."""
Key = TypeVar("Key")


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A difference of two scores, and its uncertainty."""

    value: float
    unit: str
    parts: tuple[Variance, ...] = ()
    """Its variances, over items and over seeds; empty if they are not known, and then nothing is claimed."""
    choices: int = 1
    """How many it is the largest of (Bonferroni)."""

    @property
    def interval(self) -> Interval:
        """The 95 % interval."""
        return student_ends(self.value, self.parts, self.choices) if self.parts else None

    @property
    def p_value(self) -> float:
        """Against zero, not corrected for other differences."""
        return min(1.0, self.choices * p_value(self.value, self.parts)) if self.parts else 1.0


def item_error(estimated: Estimate) -> dict[str, Any]:
    """Return the standard error of a value over its blocks of items, as rows hold it; None for one block."""
    variance = estimated.of_blocks()
    return {"standard_error": None if variance is None else variance**0.5, "blocks": estimated.blocks}


def gain(ours: LayerScore, other: LayerScore) -> dict[str, Any]:
    """Return how much better one score is than another: its unit, value and standard error; of errors sign-reversed."""
    value = other.less(ours) if ours.lower_is_better else ours.less(other)
    error = item_error(value)
    if error["standard_error"] is not None:
        error["standard_error"] = round(error["standard_error"], DIGITS)
    return {"unit": ours.unit, "value": round(value.value, DIGITS), **error}


def to_gap(
    row: Mapping[str, Any],
    ours: BySeed = (),
    theirs: BySeed = (),
    kinds: Iterable[BySeed] = (),
    choices: int = 1,
    unit: str = "%",
) -> Gap:
    """Return a row's difference with the effect of seeds on it.

    `ours`, `theirs`: the two scores by seed. `kinds`: the same of every kind of run on the page.
    """
    value, unit = row["value"], row.get("unit", unit)
    nothing = Gap(value=value, unit=unit, choices=choices)
    if not row["standard_error"]:  # none, or of a score less itself
        return nothing
    parts = [(row["standard_error"] ** 2, row["blocks"] - 1.0)]
    fitted = [item for item in (ours, theirs) if item]
    if fitted:
        several = [kind for kind in kinds if len(kind) > 1]
        if not several:
            return nothing
        freedom = sum(len(entry) - 1 for entry in several)
        pooled = sum((len(item) - 1) * np.var(item, ddof=1) for item in several) / freedom
        signs = np.array([1, -1])[: len(fitted), None]
        seed_variance = np.var((signs * np.array(fitted)).sum(axis=0), ddof=1)  # of their difference
        parts.append((float(max(seed_variance, len(fitted) * pooled)) / len(fitted[0]), float(freedom)))
    return Gap(value=value, unit=unit, parts=tuple(parts), choices=choices)


def find_signs(gaps: Mapping[Key, Gap]) -> dict[Key, int]:
    """Return 1 or −1 for each difference that is significant among all of them (Holm), else 0."""
    corrected = holm([gap.p_value for gap in gaps.values()])
    pairs = zip(gaps.items(), corrected, strict=True)
    return {key: int(np.sign(gap.value)) * (p <= SIGNIFICANT) for (key, gap), p in pairs}


def format_gap(gap: Gap | None, sign: int = 0) -> str:
    """Return a difference with its interval, bold if it has a sign; nothing for None."""
    if gap is None:
        return ""
    text = format_difference(gap.value, None, gap.unit)
    if gap.interval is not None:
        text += f" ({format_difference(*gap.interval, gap.unit)})"
    return f"**{text}**" if sign else text
