"""A result as JSON and as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from perception_encoder.evaluation.comparison import Difference
from perception_encoder.evaluation.results import Measurement, Result


@dataclass(frozen=True)
class Table:
    """Cells that are ready to print."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def filled(self) -> Table:
        """Return the table without columns whose cells are all –."""
        used = [column for column in range(len(self.columns)) if any(row[column] != "–" for row in self.rows)]
        rows = tuple(tuple(row[column] for column in used) for row in self.rows)
        return Table(tuple(self.columns[column] for column in used), rows)

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def full_table(result: Result) -> Table:
    """Return every metric with its label and interval."""
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
    """Return each metric of two models, the difference with its interval, and the better model if it is real."""
    rows = []
    for each in differences:
        unit = each.difference.unit
        gap = _number(each.difference.value, unit, True)
        if each.difference.interval is not None:
            gap += " ({} to {})".format(*(_number(end, unit, True) for end in each.difference.interval))
        label = ", ".join(filter(None, each.measurement.label))
        values = [format_value(value, unit) for value in (each.ours.value, each.theirs.value)]
        better = "not shown" if each.winner is None else names[each.winner]
        rows.append((label, each.difference.name, f"{each.difference.n:,}", *values, gap, better))
    return Table(("task", "metric", "n", *names, "difference (95 % interval)", "better"), tuple(rows))


def format_value(value: float, unit: str) -> str:
    """Return a value with its unit: shares in percent, all else with three decimals."""
    return f"{_number(value, unit)} {unit}".rstrip()


def _number(value: float, unit: str, sign: bool = False) -> str:
    text = f"{100 * value:.1f}" if unit == "%" else f"{value:.3f}"
    return f"+{text}" if sign and value > 0 else text
