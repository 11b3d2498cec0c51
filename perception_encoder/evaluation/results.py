"""What a measurement holds: its figures, how they were measured, and what each item contributed to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from perception_encoder.evaluation.statistics.estimate import Metric
from perception_encoder.evaluation.statistics.scores import Scores


@dataclass(frozen=True)
class Measurement:
    """The figures of one task, measured one way."""

    task: str
    method: str
    """`zero-shot`, `retrieval`, `k-NN`, `linear probe` and so on."""
    transform: str
    """How pictures are made square: `squash` or `crop`; empty where the task fixes it."""
    prompts: str
    """Name of the templates, of `PROMPTS`; empty where there are none."""
    classes: int
    """What there was to choose from: classes, or the items of a gallery; 0 where nothing is chosen."""
    metrics: tuple[Metric, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    """What else the method was given or chose: `layer`, `k`, `strength`."""
    scores: tuple[Scores, ...] = ()
    """Of those metrics that can be compared item by item, under their names."""

    @property
    def label(self) -> tuple[str, str, str, str]:
        """Tells it from the other measurements of a result, and finds it in another model's."""
        return self.task, self.method, self.transform, self.prompts


@dataclass(frozen=True, kw_only=True)
class Result:
    """All figures of one model, as the JSON files of `pe eval` hold them."""

    model: str
    split: str
    measurements: tuple[Measurement, ...]
    failures: tuple[str, ...]
    """Items that could not be used, each with the reason; they are in no figure."""
    about: Mapping[str, str]
    """What else fixes the figures: weight hash, floating-point type, versions."""
