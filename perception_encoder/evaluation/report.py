"""A result as JSON, as tables, and as the generated pages of the documentation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from perception_encoder.errors import DataError, one_line
from perception_encoder.evaluation.comparison import Difference
from perception_encoder.evaluation.results import Measurement, Result
from perception_encoder.evaluation.statistics.bootstrap import Metric
from perception_encoder.records import from_fields


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


def classification_table(result: Result) -> Table:
    """Return mean class accuracy of each task: zero-shot with the first prompts, probe and chance."""
    zero_shot = [m for m in result.measurements if m.method == "zero-shot" and m.prompts == first_prompts(result)]
    probes = {m.task: _percent(m.metrics[0]) for m in result.measurements if m.method == "linear probe"}
    transforms = tuple(dict.fromkeys(m.transform for m in zero_shot))
    rows = []
    for task in dict.fromkeys(m.task for m in zero_shot):
        own = [m for m in zero_shot if m.task == task]
        accuracies = [_percent(m.metrics[0]) for m in own]
        chance = _chance(own[0], 1)
        rows.append((task, str(own[0].classes), chance, *accuracies, probes.get(task, "–")))
    return Table(("task", "classes", "chance", *transforms, "linear probe"), tuple(rows))


def _chance(measurement: Measurement, digits: int) -> str:
    """The accuracy of guessing, in %."""
    return f"{100 / measurement.classes:.{digits}f}" if measurement.classes > 0 else "–"


def first_prompts(result: Result) -> str:
    """Return the name of the leading prompts; empty without zero-shot classification."""
    return next((m.prompts for m in result.measurements if m.method == "zero-shot"), "")


def retrieval_table(result: Result) -> Table:
    """Return every R@1 of retrieval beside chance."""
    rows = tuple(
        (each.task, metric.name, f"{metric.n:,}", _chance(each, 2), _percent(metric))
        for each in result.measurements
        if each.method == "retrieval"
        for metric in each.metrics
        if metric.name.endswith("R@1")
    )
    return Table(("task", "metric", "queries", "chance", "R@1"), rows)


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


def _percent(metric: Metric) -> str:
    """Return a value and half the width of its interval, in percent."""
    half = "" if metric.interval is None else f" ±{50 * (metric.interval[1] - metric.interval[0]):.1f}"
    return f"{100 * metric.value:.1f}{half}"


def summary(result: Result, tables: tuple[Table, Table] | None = None) -> str:
    """Return the leading metrics in Markdown; `tables`: of classification and of retrieval, if they show more."""
    classification, retrieval = tables or (classification_table(result), retrieval_table(result))
    lines = []
    if classification.rows:
        lines += [
            f"Mean class accuracy on the `{result.split}` split in percent, ± half the width of its 95 % interval:",
            f"zero-shot with the prompts `{first_prompts(result)}` under each transform, and a linear probe.",
            "",
            classification.markdown(),
        ]
    if retrieval.rows:
        named = all(m.prompts == "name" for m in result.measurements if m.method == "retrieval")
        what = "Drawings in a style that was never trained on, among all their names" if named else "Retrieval"
        lines += [f"{what}:", "", retrieval.markdown()]
    if result.failures:
        lines += ["Left out, because they cannot be used:", "", *(f"- {failure}" for failure in result.failures), ""]
    return "\n".join(lines)


def page(result: Result, source: str, tables: tuple[Table, Table] | None = None, command: str = "pe eval page") -> str:
    """Return a page: `source` is the name of the JSON file beside it, `tables` as for `summary`, `command` makes it.

    Every metric is shown if there is no table of classification or retrieval; else it is in the JSON.
    """
    by_task = classification_table(result).rows or retrieval_table(result).rows
    about = ", ".join(f"{name} {value}" for name, value in sorted(result.about.items()))
    return "\n".join(
        [
            f"# {result.model}: evaluation suite",
            "",
            f"Made by `{command} {source}` from [{source}]({source}), which `pe eval` wrote ({about}); every metric",
            "with its interval, under each transform and each wording, is in the JSON.",
            "",
            summary(result, tables) if by_task else full_table(result).markdown(),
        ]
    )


def to_json(result: Result) -> str:
    """Return the result as JSON, one value of it a line; failures of single measurements are in the result's."""
    measurements = [dataclasses.asdict(replace(m, failures=())) for m in result.measurements]
    for measurement in measurements:
        del measurement["failures"]
    value = {**dataclasses.asdict(replace(result, measurements=())), "measurements": measurements}
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def from_json(text: str, name: str) -> Result:
    """Read what `to_json` wrote; `DataError` under `name` for anything else."""
    try:
        result = from_fields(Result, json.loads(text))
        for each in result.measurements:
            if not each.metrics:
                raise ValueError(f"{each.task} has no metrics")
        return result
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{name} is not a result that `pe eval` wrote with -o ({one_line(error)})") from error


def read_text(path: Path) -> str:
    """Read a file; `DataError` if that fails."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
