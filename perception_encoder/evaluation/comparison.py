"""Compare two results, paired over items and head seeds, and print results as tables.

A difference is called real if its p-value is at most 0.05 after Holm's correction for the number of metrics that are
compared, and never without an interval. Of results that do not differ in any metric, one pair in twenty is then called
different in some metric; without the correction it would be one metric in twenty.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from perception_encoder.errors import DataError
from perception_encoder.evaluation.results import Measurement, Result
from perception_encoder.evaluation.statistics.bootstrap import SIGNIFICANT, Metric, holm
from perception_encoder.evaluation.statistics.scores import as_difference, by_metric, estimate_difference


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of two models, compared."""

    measurement: Measurement
    """The first model's."""
    ours: Metric
    theirs: Metric
    difference: Metric
    """Ours less theirs."""
    p_value: float = 1.0
    """Corrected for the number of compared metrics."""

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
    """Compare every metric that both results hold with per-item scores.

    Raises DataError if there is none, and if the two were evaluated on other items.
    """
    known = {measurement.label: measurement for measurement in theirs.measurements}
    differences = [
        item
        for measurement in ours.measurements
        if (other := known.get(measurement.label))
        for item in _compare(measurement, other)
    ]
    if not differences:
        labels = [", ".join(filter(None, (m.measurements[0].label if m.measurements else ()))) for m in (ours, theirs)]
        raise DataError(
            f"the results share no metric with per-item scores (first: {labels[0] or 'none'}; "
            f"{labels[1] or 'none'}); evaluate both with the same task, data, transform and prompts"
        )
    corrected = holm([difference.p_value for difference in differences])
    return [replace(difference, p_value=p) for difference, p in zip(differences, corrected, strict=True)]


def _compare(ours: Measurement, theirs: Measurement) -> list[Difference]:
    others = by_metric(theirs.scores)
    values = [{metric.name: metric for metric in measurement.metrics} for measurement in (ours, theirs)]
    try:
        gaps = {
            name: (scores[0], estimate_difference(scores, others[name]))
            for name, scores in by_metric(ours.scores).items()
            if name in others
        }
    except DataError as error:
        raise DataError(f"{ours.task}, {ours.method}: {error}") from error
    return [
        Difference(
            measurement=ours,
            ours=values[0][name],
            theirs=values[1][name],
            difference=as_difference(first, gap),
            p_value=gap.p_value(),
        )
        for name, (first, gap) in gaps.items()
    ]


@dataclass(frozen=True)
class Table:
    """Cells ready to print."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def filled(self) -> Table:
        """Return the table without its empty columns (all cells –)."""
        used = [column for column in range(len(self.columns)) if any(row[column] != "–" for row in self.rows)]
        rows = tuple(tuple(row[column] for column in used) for row in self.rows)
        return Table(tuple(self.columns[column] for column in used), rows)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def full_table(result: Result) -> Table:
    """Return a table of every metric with its label and interval."""
    shares = all(metric.unit == "%" for m in result.measurements for metric in m.metrics)
    settings = any(m.settings for m in result.measurements)
    rows = tuple(row if settings else row[:4] + row[5:] for m in result.measurements for row in _full_rows(m, shares))
    labels = ("task", "method", "transform", "prompts", *(("settings",) if settings else ()))
    return Table((*labels, "metric", "n", "%" if shares else "value", "95 % interval"), rows)


def _full_rows(m: Measurement, shares: bool) -> Iterable[tuple[str, ...]]:
    settings = ", ".join(f"{name} {value}" for name, value in m.settings.items())
    for metric in m.metrics:
        ends = "–" if metric.interval is None else "–".join(_number(bound, metric.unit) for bound in metric.interval)
        labels = (m.task, m.method, m.transform or "–", m.prompts or "–", settings or "–")
        value = _number(metric.value, metric.unit) if shares else format_value(metric.value, metric.unit)
        yield (*labels, metric.name, f"{metric.n:,}", value, ends)


def comparison_table(differences: Sequence[Difference], names: tuple[str, str]) -> Table:
    """Return a table of each metric of two models: the difference, its interval, and the better model if real."""
    rows = []
    for difference in differences:
        unit = difference.difference.unit
        gap = _number(difference.difference.value, unit, True)
        if difference.difference.interval is not None:
            gap += " ({} to {})".format(*(_number(end, unit, True) for end in difference.difference.interval))
        label = ", ".join(filter(None, difference.measurement.label))
        values = [format_value(value, unit) for value in (difference.ours.value, difference.theirs.value)]
        better = "not shown" if difference.winner is None else names[difference.winner]
        rows.append((label, difference.difference.name, f"{difference.difference.n:,}", *values, gap, better))
    return Table(("task", "metric", "n", *names, "difference (95 % interval)", "better"), tuple(rows))


def format_value(value: float, unit: str) -> str:
    """Format a value with its unit: shares as percentages, everything else with three decimals."""
    return f"{_number(value, unit)} {unit}".rstrip()


def _number(value: float, unit: str, sign: bool = False) -> str:
    text = f"{100 * value:.1f}" if unit == "%" else f"{value:.3f}"
    return f"+{text}" if sign and value > 0 else text
