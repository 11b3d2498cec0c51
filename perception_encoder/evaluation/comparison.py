"""Compare two results, paired over items and head seeds, and print results as tables.

A difference is called real if its p-value (exact, if few items differ) is at most 0.05 after Holm's correction for the
number of metrics that are compared, and never without an interval. Of results that do not differ in any metric, one
pair in twenty is then called different in some metric; without the correction it would be one metric in twenty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from perception_encoder.errors import DataError
from perception_encoder.evaluation.results import Result
from perception_encoder.evaluation.statistics.bootstrap import SIGNIFICANT, holm
from perception_encoder.evaluation.statistics.scores import Score, estimate_difference


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One score of two models, compared."""

    ours: Score
    theirs: Score
    difference: Score
    """Ours less theirs."""
    p_value: float = 1.0
    """Corrected for the number of compared scores."""

    @property
    def real(self) -> bool:
        """Whether the corrected p-value is at most the limit."""
        return self.p_value <= SIGNIFICANT

    @property
    def winner(self) -> int | None:
        """0 if the first model is better, 1 if the second is, None if the difference is not real."""
        if not self.real:
            return None
        return int((self.difference.value < 0) != self.difference.lower_is_better)


def compare(ours: Result, theirs: Result) -> list[Difference]:
    """Compare every score that both results hold with the items' scores.

    Raises DataError if there is none, and if the two were evaluated on other items.
    """
    others = {(score.key, score.name): score for score in theirs.scores if score.items}
    differences = []
    for score in ours.scores:
        other = others.get((score.key, score.name))
        if other is None or not score.items:
            continue
        try:
            gap = estimate_difference(score.items, other.items)
        except DataError as error:
            raise DataError(f"{score.task}, {score.method}: {error}") from error
        less = replace(score, value=gap.value, interval=gap.interval(), items=())
        differences.append(Difference(ours=score, theirs=other, difference=less, p_value=gap.p_value()))
    if not differences:
        labels = [", ".join(filter(None, part.scores[0].key)) if part.scores else "none" for part in (ours, theirs)]
        raise DataError(
            f"the results share no score of the same items (first: {labels[0]}; {labels[1]}); evaluate both with the "
            "same task, data, transform and prompts"
        )
    corrected = holm([difference.p_value for difference in differences])
    return [replace(difference, p_value=p) for difference, p in zip(differences, corrected, strict=True)]


Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""The names of columns, and rows of cells."""


def full_table(result: Result) -> Table:
    """Return a table of every score with its label and interval, without columns that are empty."""
    shares = all(score.unit == "%" for score in result.scores)
    columns = ("task", "method", "transform", "prompts", "settings", "metric", "n", "%" if shares else "value")
    rows = []
    for score in result.scores:
        settings = ", ".join(f"{name} {value}" for name, value in score.settings.items())
        value = _number(score.value, score.unit) if shares else format_value(score.value, score.unit)
        ends = "–".join(_number(bound, score.unit) for bound in score.interval or ())
        rows.append((*score.key, settings, score.name, f"{score.n:,}", value, ends))
    used = [index for index in range(len(columns) + 1) if any(row[index] for row in rows)]
    names = (*columns, "95 % interval")
    return tuple(names[index] for index in used), [tuple(row[index] or "–" for index in used) for row in rows]


def comparison_table(differences: Sequence[Difference], names: tuple[str, str]) -> Table:
    """Return a table of each score of two models: the difference, its interval, and the better model if real."""
    rows = []
    for difference in differences:
        unit = difference.difference.unit
        gap = _number(difference.difference.value, unit, True)
        if difference.difference.interval is not None:
            gap += " ({} to {})".format(*(_number(end, unit, True) for end in difference.difference.interval))
        label = ", ".join(filter(None, difference.ours.key))
        values = [format_value(value, unit) for value in (difference.ours.value, difference.theirs.value)]
        better = "not significant" if difference.winner is None else names[difference.winner]
        rows.append((label, difference.difference.name, f"{difference.difference.n:,}", *values, gap, better))
    return ("task", "metric", "n", *names, "difference (95 % interval)", "better"), rows


def format_value(value: float, unit: str) -> str:
    """Format a value with its unit: shares as percentages, everything else with three decimals."""
    return f"{_number(value, unit)} {unit}".rstrip()


def _number(value: float, unit: str, sign: bool = False) -> str:
    text = f"{100 * value:.{2 if sign else 1}f}" if unit == "%" else f"{value:.3f}"
    return f"+{text}" if sign and value > 0 else text
