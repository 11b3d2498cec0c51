"""Results of evaluators, all of the form `run(model) -> [Measurement]`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from perception_encoder.errors import DataError, InputError, one_line
from perception_encoder.evaluation.statistics.bootstrap import Metric
from perception_encoder.evaluation.statistics.scores import Scores, measure_all
from perception_encoder.progress import Track, untracked
from perception_encoder.records import from_fields

Model = TypeVar("Model")
AnyModel = TypeVar("AnyModel", contravariant=True)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Metrics of one task, evaluated in one way."""

    task: str
    method: str
    """`zero-shot`, `retrieval`, `20-NN`, `linear probe` and so on."""
    transform: str = ""
    """How images are made square: `squash` or `crop`, set by `evaluate`; empty if the task fixes it."""
    prompts: str = ""
    """Name of the templates, of `PROMPTS`; empty without prompts."""
    classes: int = 0
    """Number of classes or of gallery items to choose from; 0 if not applicable."""
    metrics: tuple[Metric, ...] = ()
    """Metrics; by default those of `scores`, with their intervals."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Other settings, given or chosen: `layer`, `k`, `C`."""
    scores: tuple[Scores, ...] = ()
    """Per-item scores, for metrics that have them."""
    failures: tuple[InputError, ...] = field(default=(), compare=False, repr=False)
    """Items that could not be used; no metric includes them."""

    def __post_init__(self) -> None:
        if not self.metrics and self.scores:
            object.__setattr__(self, "metrics", measure_all(self.scores))

    @property
    def label(self) -> tuple[str, str, str, str]:
        """Label that is unique within a result and matches the same measurement in other models' results."""
        return self.task, self.method, self.transform, self.prompts


@dataclass(frozen=True, kw_only=True)
class Result:
    """All measurements of one model, as the JSON files of `pe eval` hold them."""

    model: str
    split: str
    measurements: tuple[Measurement, ...]
    failures: tuple[str, ...]
    """Items that could not be used, with reasons; no metric includes them."""
    about: Mapping[str, str]
    """Other facts that the metrics depend on: weight hash, floating-point type, versions."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON file's content; failures of single measurements are in the result's."""
        measurements = [dataclasses.asdict(replace(m, failures=())) for m in self.measurements]
        for measurement in measurements:
            del measurement["failures"]
        return {**dataclasses.asdict(replace(self, measurements=())), "measurements": measurements}


class Evaluator(Protocol[AnyModel]):
    """A task with its data and settings, ready to run on any model of a kind."""

    def run(self, model: AnyModel, /, track: Track = untracked) -> list[Measurement]:
        """Evaluate a model.

        Items that cannot be decoded are left out and listed as failures. Raises DataError if none is left, and
        ModelError if the model gives NaN or infinity.
        """
        ...


def evaluate(
    evaluators: Iterable[Evaluator[Model]], models: Mapping[str, Model], track: Track = untracked
) -> list[Measurement]:
    """Run evaluators on a model under each of its transforms, by name."""
    return [
        replace(measurement, transform=transform)
        for evaluator in evaluators
        for transform, model in models.items()
        for measurement in evaluator.run(model, track)
    ]


def to_json(result: Result) -> str:
    """Return the result as JSON, with one value per line."""
    return json.dumps(result.to_dict(), indent=1, ensure_ascii=False) + "\n"


def from_json(text: str, name: str) -> Result:
    """Read what `to_json` wrote; `DataError` under `name` for anything else."""
    try:
        result = from_fields(Result, json.loads(text))
        for measurement in result.measurements:
            if not measurement.metrics:
                raise ValueError(f"{measurement.task} has no metrics")
        return result
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
