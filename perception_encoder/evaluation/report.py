"""A result as JSON, as tables, and as the pages of the documentation that are generated from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from perception_encoder.errors import DataError
from perception_encoder.evaluation.comparison import Difference
from perception_encoder.evaluation.results import Measurement, Result
from perception_encoder.evaluation.statistics.estimate import Metric
from perception_encoder.evaluation.statistics.scores import DrawnScores, ItemScores
from perception_encoder.files import replacing, writing
from perception_encoder.models.registry import BUILTIN

MARKS = {
    "caltech101": 0.55,
    "caltech101/unseen": 0.20,
    "clothing": 0.58,
    "grocery": 0.60,
    "grocery/coarse": 0.66,
    "flowers": 0.82,
    "openmoji": 0.40,
}
"""What the second edition of the built-in model is to reach on `test`: in mean class accuracy, by either transform, and
in finding a drawing by its name."""

MARKED_SEARCH = "picture by name R@1"
"""The figure of drawings that the mark is for."""

MARKED = "Marks are those of the second edition, ✓ where they are reached, by the better of the two transforms."

FIGURES = ("<!-- figures -->", "<!-- end of figures -->")
"""Where a model card holds its figures: between these lines."""


@dataclass(frozen=True)
class Table:
    """Cells that are ready to print."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def filled(self) -> Table:
        """The columns that say something: without those whose cells are all –."""
        kept = [column for column in range(len(self.columns)) if any(row[column] != "–" for row in self.rows)]
        rows = tuple(tuple(row[column] for column in kept) for row in self.rows)
        return Table(tuple(self.columns[column] for column in kept), rows)

    def markdown(self) -> str:
        """The table in Markdown."""
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def classification_table(result: Result) -> Table:
    """Mean class accuracy of each task: zero-shot with the first prompts, probe, chance, and the built-in's marks."""
    zero_shot = [m for m in result.measurements if m.method == "zero-shot" and m.prompts == first_prompts(result)]
    probes = {m.task: _percent(m.metrics[0]) for m in result.measurements if m.method == "linear probe"}
    transforms = tuple(dict.fromkeys(m.transform for m in zero_shot))
    marked = _is_marked(result)
    rows = []
    for task in dict.fromkeys(m.task for m in zero_shot):
        found = [m for m in zero_shot if m.task == task]
        accuracy = [m.metrics[0] for m in found]
        row = [task, str(found[0].classes), f"{100 / found[0].classes:.1f}"]
        row += [*map(_percent, accuracy), probes.get(task, "–")]
        rows.append((*row, *([_mark(task, max(a.value for a in accuracy))] if marked else [])))
    columns = ("task", "classes", "chance", *transforms, "linear probe")
    return Table((*columns, "mark") if marked else columns, tuple(rows))


def first_prompts(result: Result) -> str:
    """Name of the prompts that stand in front; empty where nothing was classified zero-shot."""
    return next((m.prompts for m in result.measurements if m.method == "zero-shot"), "")


def _is_marked(result: Result) -> bool:
    return result.model == BUILTIN and result.split == "test"


def _mark(task: str, value: float) -> str:
    if task not in MARKS:
        return "–"
    return f"{100 * MARKS[task]:.0f} {'✓' if value >= MARKS[task] else '✗'}"


def retrieval_table(result: Result) -> Table:
    """Every retrieval figure at the first place beside chance."""
    retrievals = [m for m in result.measurements if m.method == "retrieval"]
    marked = _is_marked(result) and any(m.task in MARKS for m in retrievals)
    rows = []
    for measured in retrievals:
        for metric in measured.metrics:
            if metric.name.endswith("R@1"):
                row = (measured.task, metric.name, f"{metric.n:,}", f"{100 / measured.classes:.2f}", _percent(metric))
                mark = _mark(measured.task, metric.value) if metric.name == MARKED_SEARCH else "–"
                rows.append((*row, *([mark] if marked else [])))
    columns = ("task", "figure", "queries", "chance", "R@1")
    return Table((*columns, "mark") if marked else columns, tuple(rows))


def full_table(result: Result) -> Table:
    """Every figure with its label and interval."""
    shares = all(metric.unit == "%" for m in result.measurements for metric in m.metrics)
    settings = any(m.settings for m in result.measurements)
    rows = tuple(row if settings else row[:4] + row[5:] for m in result.measurements for row in _full_rows(m, shares))
    labels = ("task", "method", "transform", "prompts", *(("settings",) if settings else ()))
    return Table((*labels, "figure", "n", "%" if shares else "value", "95 % interval"), rows)


def _full_rows(m: Measurement, shares: bool) -> Iterable[tuple[str, ...]]:
    settings = ", ".join(f"{name} {value}" for name, value in m.settings.items())
    for metric in m.metrics:
        ends = "–" if metric.ci is None else "–".join(_number(bound, metric.unit) for bound in metric.ci)
        labels = (m.task, m.method, m.transform or "–", m.prompts or "–", settings or "–")
        value = _number(metric.value, metric.unit) if shares else shown(metric.value, metric.unit)
        yield (*labels, metric.name, f"{metric.n:,}", value, ends)


def comparison_table(differences: Sequence[Difference], names: tuple[str, str]) -> Table:
    """Each figure of two models, the difference with its interval, and who is better where that is shown."""
    rows = []
    for each in differences:
        unit = each.difference.unit
        gap = _number(each.difference.value, unit, True)
        if each.difference.ci is not None:
            gap += " ({} to {})".format(*(_number(end, unit, True) for end in each.difference.ci))
        label = ", ".join(filter(None, each.measurement.label))
        values = [shown(value, unit) for value in (each.ours.value, each.theirs.value)]
        better = "not shown" if each.winner is None else names[each.winner]
        rows.append((label, each.difference.name, f"{each.difference.n:,}", *values, gap, better))
    return Table(("task", "figure", "n", *names, "difference (95 % interval)", "better"), tuple(rows))


def shown(value: float, unit: str) -> str:
    """A figure with its unit: shares in percent, all else with three decimals."""
    return f"{_number(value, unit)} {unit}".rstrip()


def _number(value: float, unit: str, sign: bool = False) -> str:
    text = f"{100 * value:.1f}" if unit == "%" else f"{value:.3f}"
    return f"+{text}" if sign and value > 0 else text


def _percent(metric: Metric) -> str:
    """Value and half the width of its interval, in percent."""
    half = "" if metric.ci is None else f" ±{50 * (metric.ci[1] - metric.ci[0]):.1f}"
    return f"{100 * metric.value:.1f}{half}"


def figures(result: Result) -> str:
    """The figures in Markdown, as the page and the model card show them."""
    classification = classification_table(result)
    lines = []
    if classification.rows:
        lines += [
            f"Mean class accuracy on the `{result.split}` split in percent, ± half the width of its 95 % interval:",
            f"zero-shot with the prompts `{first_prompts(result)}` under each transform, and a linear probe.",
            "",
            classification.markdown(),
        ]
    retrieval = retrieval_table(result)
    if retrieval.rows:
        drawn = all(m.prompts == "name" for m in result.measurements if m.method == "retrieval")
        what = "Drawings in a style that was never trained on, among all their names" if drawn else "Retrieval"
        lines += [f"{what}:", "", retrieval.markdown()]
    if _is_marked(result):
        lines += [MARKED, ""]
    if result.failures:
        lines += ["Left out, because they cannot be used:", "", *(f"- {f}" for f in result.failures), ""]
    return "\n".join(lines)


def page(result: Result, source: str) -> str:
    """A page of docs/results: `source` is the name of the JSON file beside it.

    Every figure is shown where there is no table of classification or retrieval; else it is in the JSON.
    """
    shown_by_task = classification_table(result).rows or retrieval_table(result).rows
    about = ", ".join(f"{name} {value}" for name, value in sorted(result.about.items()))
    return "\n".join(
        [
            f"# {result.model}: evaluation suite",
            "",
            f"Made by `pe eval page {source}` from [{source}]({source}), which `pe eval` wrote ({about}); every figure",
            "with its interval, under each transform and each wording, is in the JSON.",
            "",
            figures(result) if shown_by_task else full_table(result).markdown(),
        ]
    )


def insert_figures(card: str, result: Result) -> str:
    """A model card with its figures brought up to date; `DataError` where it has no place for them."""
    start, end = FIGURES
    before, found, rest = card.partition(start + "\n")
    _, ended, after = rest.partition(end + "\n")
    if not found or not ended:
        raise DataError(f"the card needs the lines {start} and {end}, between which the figures go")
    return f"{before}{start}\n\n{figures(result)}\n{end}\n{after}"


def to_json(result: Result) -> str:
    """The result as JSON, one value of it a line."""
    return json.dumps(dataclasses.asdict(result), indent=1, ensure_ascii=False) + "\n"


def from_json(text: str, name: str) -> Result:
    """Read what `to_json` made; `DataError` under `name` for anything else."""
    try:
        value = json.loads(text)
        measurements = (_measurement(m) for m in value.pop("measurements"))
        failures = tuple(value.pop("failures"))
        return Result(measurements=tuple(measurements), failures=failures, **value)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{name} is not a result that `pe eval` wrote with -o ({error!r})") from error


def _measurement(value: dict) -> Measurement:
    metrics = tuple(
        Metric(**{**metric, "ci": None if metric["ci"] is None else tuple(metric["ci"])})
        for metric in value.pop("metrics")
    )
    kept = value.pop("scores", ())
    scores = tuple(DrawnScores(**each) if "draws" in each else ItemScores(**each) for each in kept)
    return Measurement(metrics=metrics, scores=scores, **value)


def read_text(path: Path) -> str:
    """Read a file; `DataError` where that fails."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; `OutputError` where that fails."""
    with writing(path), replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
