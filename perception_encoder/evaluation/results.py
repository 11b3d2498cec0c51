"""Results of evaluators: all scores of a model on a task, as JSON and as tables, and the comparison of two.

A comparison is paired over items and head seeds. A difference is called real if its p-value is at most 0.05 after
Holm's correction for the number of metrics that are compared, and never without an interval.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from perception_encoder.errors import DataError, one_line
from perception_encoder.evaluation.statistics.bootstrap import SIGNIFICANT, check_scipy, holm
from perception_encoder.evaluation.statistics.scores import Score, estimate_difference
from perception_encoder.files import write_text
from perception_encoder.progress import Track, untracked
from perception_encoder.records import parse_json

Model = TypeVar("Model")
AnyModel = TypeVar("AnyModel", contravariant=True)


@dataclass(frozen=True, kw_only=True)
class Result:
    """All scores of one model."""

    model: str
    split: str
    scores: tuple[Score, ...]
    failures: tuple[str, ...]
    """Items that could not be used, with reasons; they are in no score."""
    about: Mapping[str, str]
    """Other facts that the scores depend on: weight hash, floating-point type, versions."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON file's content; failures of single scores are in the result's."""
        scores = [dataclasses.asdict(replace(score, failures=())) for score in self.scores]
        for score in scores:
            del score["failures"]
        return {**dataclasses.asdict(replace(self, scores=())), "scores": scores}


class Evaluator(Protocol[AnyModel]):
    """A task with its data and settings, ready to run on any model of a kind."""

    def run(self, model: AnyModel, /, track: Track = untracked) -> Iterator[Score]:
        """Evaluate a model.

        Items that cannot be decoded are left out and listed as failures. Raises DataError if none is left, and
        ModelError if the model gives NaN or infinity.
        """
        ...


def evaluate_transforms(
    evaluators: Iterable[Evaluator[Model]], models: Mapping[str, Model], track: Track = untracked
) -> Iterator[Score]:
    """Run evaluators on a model under each of its transforms, by name."""
    for evaluator in evaluators:
        for transform, model in models.items():
            for score in evaluator.run(model, track):
                yield replace(score, transform=transform)


def run_evaluators(
    evaluators: Iterable[Evaluator[Any]],
    models: Mapping[str, Any],
    split: str,
    about: Mapping[str, str],
    progress: Track = untracked,
) -> Result:
    """Return the result of evaluators on a model under each of its transforms, by name."""
    check_scipy()
    scores = tuple(evaluate_transforms(evaluators, models, progress))
    failures = dict.fromkeys(str(failure) for score in scores for failure in score.failures)
    name = next(iter(models.values())).name
    return Result(model=name, split=split, scores=scores, failures=tuple(failures), about=dict(about))


def write_result(result: Result, path: Path) -> None:
    """Write a result's JSON file; OutputError if that fails."""
    write_text(path, to_json(result))


def to_json(result: Result) -> str:
    """Return the result as JSON, with one value per line."""
    return json.dumps(result.to_dict(), indent=1, ensure_ascii=False) + "\n"


def from_json(text: str, name: str) -> Result:
    """Read the result of `to_json`; `DataError` under `name` for anything else."""
    try:
        return parse_json(text, Result)
    except ValueError as error:
        raise DataError(f"{name} is not a result written by `pe eval` with -o ({one_line(error)})") from error


def read_result(path: Path) -> Result:
    """Read the JSON file of a result; DataError if it cannot be read or is something else."""
    return from_json(read_text(path), path.name)


def read_text(path: Path) -> str:
    """Read a file; DataError if that fails."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One score of two models, compared."""

    ours: Score
    theirs: Score
    difference: Score
    p_value: float = 1.0

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


def compare_results(ours: Result, theirs: Result) -> list[Difference]:
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


def compare_files(first: Path, second: Path) -> tuple[str, Table]:
    """Return a title and the `comparison_table` of two results' files; DataError as `compare_results`."""
    ours, theirs = read_result(first), read_result(second)
    names = (ours.model, theirs.model) if ours.model != theirs.model else (first.stem, second.stem)
    return f"{names[0]} minus {names[1]}", comparison_table(compare_results(ours, theirs), names)


def format_value(value: float, unit: str) -> str:
    """Format a value with its unit: shares as percentages, everything else with three decimals."""
    return f"{_number(value, unit)} {unit}".rstrip()


def _number(value: float, unit: str, sign: bool = False) -> str:
    text = f"{100 * value:.{2 if sign else 1}f}" if unit == "%" else f"{value:.3f}"
    return f"+{text}" if sign and value > 0 else text
