"""An attentive probe: one cross-attention block over a layer's frozen tokens, and a linear layer (sections 2.5 and 3).

The block is the model's own attention pooling, trained from scratch on normalized tokens with the learning rate that is
best on the val split. The paper does not give these settings; they are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.dense_prediction.head_fitting import FitConfig, fit_head, take
from perception_encoder.errors import ConfigError, DataError, ModelError
from perception_encoder.evaluation.classification.probes import mean_class_accuracy
from perception_encoder.evaluation.classification.splits import Splits
from perception_encoder.evaluation.classification.zero_shot import accuracies, highest, ranked_classes
from perception_encoder.evaluation.embeddings import class_indices
from perception_encoder.evaluation.feature_cache import CachedTokens, Tokens
from perception_encoder.evaluation.inputs import inputs_of, settings_digest
from perception_encoder.evaluation.layer_evaluator import LayerSource, decoded
from perception_encoder.evaluation.statistics.scores import (
    HEAD_SEEDS,
    ItemScores,
    Label,
    Score,
    measure_all,
    with_head_seeds,
)
from perception_encoder.models.initialization import initialize
from perception_encoder.models.layers import AttentionPooling
from perception_encoder.progress import Track, untracked
from perception_encoder.records import Checked, Count, Positive


@dataclass(frozen=True, kw_only=True)
class AttentiveConfig(Checked):
    """How the probe is trained."""

    heads: Count = 8
    """Number of attention heads; reduced if it does not divide the width."""
    fit: FitConfig = field(default_factory=lambda: FitConfig(batch=64, weight_decay=0.05))
    learning_rates: tuple[Positive, ...] = (3e-4, 1e-3, 3e-3)
    head_seeds: Count = HEAD_SEEDS
    """Number of probes to train, each with its own seed and learning rate; a single probe gives no
    interval."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.learning_rates:
            raise ConfigError("learning_rates is empty; give at least one")


class AttentiveProbe(nn.Module):
    """Frozen tokens (B, N, D) to class scores (B, K)."""

    def __init__(self, width: int, classes: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.pool = AttentionPooling(width, math.gcd(heads, width))
        self.head = nn.Linear(width, classes)
        initialize(self.pool, generator)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B K"]:
        return self.head(self.pool.forward_frozen(F.layer_norm(tokens, tokens.shape[-1:])))

    @torch.no_grad()
    def scores(self, tokens: Tokens, batch: int = 256) -> np.ndarray:
        """Return class scores (n, K) of all items; ModelError if they are not finite."""
        device = self.head.weight.device
        rows = np.array_split(np.arange(len(tokens)), -(-len(tokens) // batch))
        scores = torch.cat([self(take(tokens, some).to(device)).cpu() for some in rows]).numpy()
        if not np.isfinite(scores).all():
            raise ModelError(
                "the probe gives NaN or infinity: features are not finite, or its learning rate is too high"
            )
        return scores


def fit_attentive(
    train: Tokens,
    targets: np.ndarray,
    val: Tokens,
    val_targets: np.ndarray,
    classes: int,
    config: AttentiveConfig,
    device: torch.device | None = None,
    track: Track = untracked,
) -> tuple[AttentiveProbe, float]:
    """Return the probe with the learning rate that is best on `val`, and that rate; on a tie the smallest.

    `targets`, `val_targets`: classes from 0, int64 (n,). Raises ModelError if the loss is not finite, DataError for a
    single class.
    """
    if len(np.unique(targets)) < 2:
        raise DataError("all training items have the same class; a probe needs at least two classes")
    weight = torch.from_numpy(1 / np.maximum(np.bincount(targets, minlength=classes), 1)).float().to(device)
    rates = sorted(config.learning_rates)
    probes = []
    for rate in rates:
        generator = torch.Generator().manual_seed(config.fit.seed)
        probe = AttentiveProbe(train.shape[-1], classes, config.heads, generator).to(device)

        def loss(rows: np.ndarray, probe: AttentiveProbe = probe) -> Tensor:
            labels = torch.from_numpy(targets[rows]).to(device)
            return F.cross_entropy(probe(take(train, rows).to(device)), labels, weight)

        fit_head(probe, loss, len(targets), replace(config.fit, lr=rate), f"probe, learning rate {rate:g}", track)
        probes.append(probe)
    scores = [mean_class_accuracy(probe.scores(val).argmax(axis=1), val_targets) for probe in probes]
    best = int(np.argmax(scores))
    return probes[best], rates[best]


def attentive_scores(
    layers: Sequence[CachedTokens],
    parts: Sequence[LabelledImages],
    classes: Sequence[str],
    config: AttentiveConfig,
    device: torch.device | None = None,
    track: Track = untracked,
) -> tuple[tuple[ItemScores, ...], list[float]]:
    """Fit a probe with each seed on the tokens of the first part; return the last part's scores, and the rates.

    `parts`: to train, to choose the rate and to test on. DataError if no item of a part could be decoded.
    """
    train, val, test = map(decoded, parts, layers)
    targets, val_targets = class_indices(train.labels, classes), class_indices(val.labels, classes)
    tokens, val_tokens, test_tokens = (layer.tokens for layer in layers)
    rates: list[float] = []

    def score(seed: int) -> tuple[ItemScores, ...]:
        seeded = replace(config, fit=config.fit.with_seed(seed))
        probe, rate = fit_attentive(tokens, targets, val_tokens, val_targets, len(classes), seeded, device, track)
        rates.append(rate)
        ranked = highest(probe.scores(test_tokens), ranked_classes(classes))
        return accuracies(ranked, test.keys, test.labels, classes)

    return with_head_seeds(config.head_seeds, score), rates


class AttentiveEvaluator:
    """Classification of images or videos by an attentive probe on one layer."""

    def __init__(
        self, splits: Splits, config: AttentiveConfig | None = None, device: torch.device | None = None
    ) -> None:
        """`device`: where to train; the CPU by default."""
        self.splits, self.config, self.device = splits, config or AttentiveConfig(), device
        self.parts = splits.train, splits.val, splits.test
        self.inputs = list(map(inputs_of, self.parts))

    def run(self, source: LayerSource, track: Track = untracked) -> Iterator[Score]:
        """Train and test probes: mean class accuracy, top-1, and top-5 if there are more than five classes."""
        depends = settings_digest(self.config, *(part.labels for part in self.parts))
        yield from source.score(self.inputs, depends, partial(self._score, track=track), track)

    def _score(self, features: Iterable[CachedTokens], track: Track) -> Iterator[Score]:
        layers, classes = list(features), self.splits.classes
        items, rates = attentive_scores(layers, self.parts, classes, self.config, self.device, track)
        settings = {
            "layer": str(layers[0].layer),
            "lr": "/".join(f"{rate:g}" for rate in rates),
            "train": f"{len(layers[0].rows):,}",
            "head seeds": str(self.config.head_seeds),
        }
        label = Label(task=self.splits.test.name, method="attentive probe", classes=len(classes), settings=settings)
        yield from measure_all(items, label)
