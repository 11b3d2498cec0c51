"""The built-in model's result as its page and its model card, next to the targets of its second edition."""

from __future__ import annotations

from perception_encoder.errors import DataError
from perception_encoder.evaluation import report
from perception_encoder.evaluation.report import Table
from perception_encoder.evaluation.results import Result
from perception_encoder.models.registry import BUILTIN

TARGETS = {
    "caltech101": 0.55,
    "caltech101/unseen": 0.20,
    "clothing": 0.58,
    "grocery": 0.60,
    "grocery/coarse": 0.66,
    "flowers": 0.82,
    "openmoji": 0.40,
}
"""Mean class accuracy, and for drawings the share found by their names."""
NOTE = "Targets are those of the second edition, ✓ if they are reached, by the better of the two transforms.\n"
CARD_MARKERS = ("<!-- figures -->", "<!-- end of figures -->")
"""The lines of a model card between which its results stand."""


def page(result: Result, source: str) -> str:
    """Return the page; `source` is the name of the JSON file beside it. DataError for another model or split."""
    return report.page(result, source, with_targets(result), "python -m experiments.builtin") + f"\n{NOTE}"


def update_card(card: str, result: Result) -> str:
    """Return a model card with up-to-date results; DataError if it lacks the lines for them, and as `page`."""
    start, end = CARD_MARKERS
    before, started, rest = card.partition(start + "\n")
    _, ended, after = rest.partition(end + "\n")
    if not started or not ended:
        raise DataError(f"the card needs the lines {start} and {end}, with the results between them")
    return f"{before}{start}\n\n{report.summary(result, with_targets(result))}\n{NOTE}\n{end}\n{after}"


def with_targets(result: Result) -> tuple[Table, Table]:
    """Return the tables of classification and of retrieval with a column of targets, each at its task's first row."""
    if result.model != BUILTIN or result.split != "test":
        raise DataError(f"targets are for {BUILTIN} on test, not for {result.model} on {result.split}")
    prompts, best = report.first_prompts(result), dict[str, float]()
    for each in result.measurements:
        if each.method == "retrieval" or (each.method == "zero-shot" and each.prompts == prompts):
            best[each.task] = max(best.get(each.task, 0.0), each.metrics[0].value)
    classification, retrieval = report.classification_table(result), report.retrieval_table(result)
    return _add_targets(classification, best), _add_targets(retrieval, best)


def _add_targets(table: Table, best: dict[str, float]) -> Table:
    cells: dict[str, str] = {}
    rows = []
    for row in table.rows:
        task = row[0]
        target = TARGETS.get(task) if task not in cells else None
        cells[task] = "–" if target is None else f"{100 * target:.0f} {'✓' if best[task] >= target else '✗'}"
        rows.append((*row, cells[task]))
    return Table((*table.columns, "target"), tuple(rows))
