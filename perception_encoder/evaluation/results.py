"""Results of evaluators: all scores of a model on a task, as the JSON files of `pe eval` hold them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from perception_encoder.errors import DataError, one_line
from perception_encoder.evaluation.statistics.scores import Score
from perception_encoder.progress import Track, untracked
from perception_encoder.records import from_fields

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


def evaluate(
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
    scores = tuple(evaluate(evaluators, models, progress))
    failures = dict.fromkeys(str(failure) for score in scores for failure in score.failures)
    name = next(iter(models.values())).name
    return Result(model=name, split=split, scores=scores, failures=tuple(failures), about=dict(about))


def to_json(result: Result) -> str:
    """Return the result as JSON, with one value per line."""
    return json.dumps(result.to_dict(), indent=1, ensure_ascii=False) + "\n"


def from_json(text: str, name: str) -> Result:
    """Read the result of `to_json`; `DataError` under `name` for anything else."""
    try:
        return from_fields(Result, json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
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
