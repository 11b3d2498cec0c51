"""A task of layer analysis: images to encode, and scores of one layer's features.

A task knows no model and stores no features; layer analysis encodes its images once, all layers in one pass, stores the
features on disk, and hands them to the task a layer at a time. Anything that is evaluated on frozen tokens plugs in
through `LayerTask`, also the answers of a language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float

from perception_encoder.errors import InputError
from perception_encoder.evaluation.layer_features import LayerFeatures, LayerImages
from perception_encoder.evaluation.statistics.bootstrap import Estimate, Metric
from perception_encoder.evaluation.statistics.scores import Scores, by_metric, estimate
from perception_encoder.models.protocols import LayerEncoder


@dataclass(frozen=True, kw_only=True)
class LayerScore:
    """One metric of one layer."""

    name: str
    value: float
    n: int
    """The number of items."""
    drawn: Float[np.ndarray, " R"]
    """The value in each resample of the blocks: the same for every layer and model, so that differences pair."""
    blocks: int
    """The number of blocks: a block's items, the frames of a video say, are resampled together."""
    pool: str
    """The `pe embed --pool` for such work: "mean" for an embedding an image, "tokens" for a map."""
    unit: str = "%"
    """"%" of a share in 0–1, "m", or nothing."""
    lower_is_better: bool = False
    by_seed: tuple[float, ...] = ()
    """The value with each seed of a fitted head; empty if nothing is fitted from random weights."""

    @classmethod
    def of(cls, scores: Scores | Sequence[Scores], pool: str, name: str | None = None) -> LayerScore:
        """Score one metric, of one or several head seeds, under its own name or another."""
        group = scores if isinstance(scores, Sequence) else [scores]
        first, own = group[0], estimate(group)
        return cls(
            name=name or first.metric,
            value=own.value,
            n=first.items,
            drawn=own.draws,
            blocks=own.blocks,
            pool=pool,
            unit=first.unit,
            lower_is_better=first.lower_is_better,
            by_seed=own.by_seed,
        )

    @classmethod
    def all_of(cls, scores: Sequence[Scores], pool: str) -> tuple[LayerScore, ...]:
        """Score every metric, each of one or several head seeds."""
        return tuple(cls.of(group, pool) for group in by_metric(scores).values())

    @property
    def estimate(self) -> Estimate:
        """The value with its resamples."""
        return Estimate(value=self.value, draws=self.drawn, blocks=self.blocks, by_seed=self.by_seed)

    @property
    def metric(self) -> Metric:
        """The value with its interval."""
        return self.estimate.metric(self.name, self.n, self.unit, self.lower_is_better)


class LayerTask(Protocol):
    """One task that every layer is evaluated on."""

    @property
    def name(self) -> str:
        """The name in reports; of one word."""
        ...

    @property
    def digest(self) -> str:
        """Of everything that scores depend on besides features: targets, settings."""
        ...

    @property
    def failures(self) -> Sequence[InputError]:
        """Inputs besides images that could not be used; known without `measure`, for scores may be on disk."""
        ...

    def images(self, encoder: LayerEncoder) -> Sequence[LayerImages]:
        """Return the sets of images to encode; DataError if the data lack what the task needs."""
        ...

    def measure(self, features: Sequence[LayerFeatures]) -> tuple[LayerScore, ...]:
        """Score a layer by its features of `images`, in their order; the first score leads.

        Features of images none of which could be decoded have no rows.
        """
        ...
