"""Tables of a result in Markdown: classification and retrieval beside chance."""

from __future__ import annotations

from dataclasses import dataclass

from perception_encoder.evaluation.results import Result
from perception_encoder.evaluation.statistics.scores import Score


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
    leading = [score for score in result.scores if score.name == "mean class accuracy"]
    zero_shot = [item for item in leading if item.method == "zero-shot" and item.prompts == first_prompts(result)]
    probes = {score.task: _percent(score) for score in leading if score.method == "linear probe"}
    transforms = tuple(dict.fromkeys(score.transform for score in zero_shot))
    rows = []
    for task in dict.fromkeys(score.task for score in zero_shot):
        of_task = [score for score in zero_shot if score.task == task]
        accuracies, chance = map(_percent, of_task), _chance(of_task[0], 1)
        rows.append((task, str(of_task[0].classes), chance, *accuracies, probes.get(task, "–")))
    return Table(("task", "classes", "chance", *transforms, "linear probe"), tuple(rows))


def _chance(score: Score, digits: int) -> str:
    """The accuracy of guessing, in %."""
    return f"{100 / score.classes:.{digits}f}" if score.classes > 0 else "–"


def first_prompts(result: Result) -> str:
    """Return the name of the leading prompts; empty without zero-shot classification."""
    return next((score.prompts for score in result.scores if score.method == "zero-shot"), "")


def retrieval_table(result: Result) -> Table:
    """Return every R@1 of retrieval beside chance."""
    rows = tuple(
        (score.task, score.name, f"{score.n:,}", _chance(score, 2), _percent(score))
        for score in result.scores
        if score.method == "retrieval" and score.name.endswith("R@1")
    )
    return Table(("task", "metric", "queries", "chance", "R@1"), rows)


def _percent(score: Score) -> str:
    """Return a value and half the width of its interval, in percent."""
    half = "" if score.interval is None else f" ±{50 * (score.interval[1] - score.interval[0]):.1f}"
    return f"{100 * score.value:.1f}{half}"


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
        named = all(score.prompts == "name" for score in result.scores if score.method == "retrieval")
        what = "Drawings in a style that was never trained on, among all their names" if named else "Retrieval"
        lines += [f"{what}:", "", retrieval.markdown()]
    if result.failures:
        lines += ["Left out, because they cannot be used:", "", *(f"- {failure}" for failure in result.failures), ""]
    return "\n".join(lines)
