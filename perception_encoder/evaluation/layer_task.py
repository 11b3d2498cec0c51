"""What is asked of every layer: pictures to be encoded, and figures of what a layer made of them.

A task knows no model and keeps no features; layer analysis encodes its pictures once, all layers in one pass, keeps
what came out on disk, and hands it to the task a layer at a time. Whatever can be measured on frozen tokens plugs in
through `LayerTask`, a language model's answers too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float
from PIL import Image

from perception_encoder.errors import InputError
from perception_encoder.evaluation.statistics.estimate import Estimate, Metric
from perception_encoder.evaluation.statistics.scores import Scores, by_metric, estimate
from perception_encoder.models.protocols import LayerEncoder


@dataclass(frozen=True, kw_only=True)
class LayerPictures:
    """Pictures that are encoded together, at one size."""

    name: str
    """What they are called while they are encoded, and in errors."""
    keys: tuple[str, ...]
    """Their names."""
    open: Callable[[int], Image.Image]
    """The picture at a place; raises InputError for one that cannot be decoded."""
    digest: str
    """Of the pictures' content: features are kept under it."""
    image_size: tuple[int, int] | None = None
    """Height and width they are squashed to, multiples of the patch; the encoder's own by default."""


@dataclass(frozen=True, kw_only=True)
class LayerFeatures:
    """What one layer made of `LayerPictures`."""

    layer: int
    tokens: Float[np.ndarray, "n N D"]
    """Of the pictures that could be decoded, prefix first; mapped from disk, so slices are cheap and copies are not."""
    prefix: int
    """How many class and register tokens stand before the patches."""
    grid: tuple[int, int]
    patch_size: int
    rows: np.ndarray
    """Which of the pictures these are, (n,) int64, ascending."""
    failures: tuple[InputError, ...] = ()
    """The pictures that could not be decoded."""

    @property
    def patches(self) -> Float[np.ndarray, "n h w D"]:
        """The patch tokens, still mapped where that can be."""
        n, _, width = self.tokens.shape
        return self.tokens[:, self.prefix :].reshape(n, *self.grid, width)

    def mean(self) -> Float[np.ndarray, "n D"]:
        """The mean of each picture's patches, float32: what `pe embed --pool mean` takes before it normalises."""
        chunks = np.array_split(np.arange(len(self.tokens)), max(1, len(self.tokens) // 256))
        parts = [self.tokens[rows][:, self.prefix :].astype(np.float32).mean(axis=1) for rows in chunks]
        return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True)
class LayerScore:
    """One figure of one layer."""

    name: str
    value: float
    n: int
    """How many items it was measured on."""
    drawn: Float[np.ndarray, " R"]
    """The figure on blocks drawn anew, R times: the same draws for every layer and model, so that differences pair."""
    blocks: int
    """How many blocks the items make: a block's items, the frames of a video say, are drawn together."""
    pool: str
    """What `pe embed --pool` takes for such work: "mean" for a vector a picture, "tokens" for all of them."""
    unit: str = "%"
    """"%" of a share in 0–1, "m", or nothing."""
    lower_is_better: bool = False
    by_seed: tuple[float, ...] = ()
    """The figure with each seed of a fitted head; empty where nothing is fitted from random weights."""

    @classmethod
    def of(cls, scores: Scores | Sequence[Scores], pool: str, name: str | None = None) -> LayerScore:
        """One figure, of one or several head seeds, under its own name or another."""
        group = scores if isinstance(scores, Sequence) else [scores]
        first, found = group[0], estimate(group)
        return cls(
            name=name or first.metric,
            value=found.value,
            n=first.items,
            drawn=found.drawn,
            blocks=found.blocks,
            pool=pool,
            unit=first.unit,
            lower_is_better=first.lower_is_better,
            by_seed=found.by_seed,
        )

    @classmethod
    def all_of(cls, scores: Sequence[Scores], pool: str) -> tuple[LayerScore, ...]:
        """Every figure of some scores, each of one or several head seeds."""
        return tuple(cls.of(group, pool) for group in by_metric(scores).values())

    @property
    def estimate(self) -> Estimate:
        """What the figure owes to chance."""
        return Estimate(value=self.value, drawn=self.drawn, blocks=self.blocks, by_seed=self.by_seed)

    @property
    def metric(self) -> Metric:
        """The figure with its interval."""
        return self.estimate.metric(self.name, self.n, self.unit, self.lower_is_better)


class LayerTask(Protocol):
    """One question that each layer answers."""

    @property
    def name(self) -> str:
        """What it is listed under; of one word."""
        ...

    @property
    def digest(self) -> str:
        """Of whatever the figures depend on besides features: targets, settings."""
        ...

    @property
    def failures(self) -> Sequence[InputError]:
        """What besides pictures could not be used, masks say; known without `measure`, for scores may be on disk."""
        ...

    def pictures(self, encoder: LayerEncoder) -> Sequence[LayerPictures]:
        """What is to be encoded; DataError where the data lack what the task needs."""
        ...

    def measure(self, features: Sequence[LayerFeatures]) -> tuple[LayerScore, ...]:
        """A layer's figures from its features of `pictures`, in their order; the first figure stands in front.

        Where none of a set's pictures could be decoded its features have no rows.
        """
        ...
