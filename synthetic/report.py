"""Tables of a result in Markdown: classification and retrieval beside chance."""

from __future__ import annotations

from dataclasses import dataclass

from perception_encoder.evaluation.results import Measurement, Result
from perception_encoder.evaluation.statistics.bootstrap import Metric


@dataclass(frozen=True)
class Table:
    """Cells ready to print."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def classification_table(result: Result) -> Table:
    """Return mean class accuracy of each task: zero-shot with the first prompts, probe and chance."""
    zero_shot = [m for m in result.measurements if m.method == "zero-shot" and m.prompts == first_prompts(result)]
    probes = {m.task: _percent(m.metrics[0]) for m in result.measurements if m.method == "linear probe"}
    transforms = tuple(dict.fromkeys(m.transform for m in zero_shot))
    rows = []
    for task in dict.fromkeys(m.task for m in zero_shot):
        of_task = [m for m in zero_shot if m.task == task]
        accuracies = [_percent(m.metrics[0]) for m in of_task]
        chance = _chance(of_task[0], 1)
        rows.append((task, str(of_task[0].classes), chance, *accuracies, probes.get(task, "–")))
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
        (measurement.task, metric.name, f"{metric.n:,}", _chance(measurement, 2), _percent(metric))
        for measurement in result.measurements
        if measurement.method == "retrieval"
        for metric in measurement.metrics
        if metric.name.endswith("R@1")
    )
    return Table(("task", "metric", "queries", "chance", "R@1"), rows)


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
