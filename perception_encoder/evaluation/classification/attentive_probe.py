"""An attentive probe: one cross-attention block over a layer's frozen tokens, and a linear layer (sections 2.5 and 3).

The block is the model's own attention pooling, trained from scratch on normalised tokens with the learning rate that is
best on the val split. The paper does not give these settings; they are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from perception_encoder.errors import ConfigError, DataError, ModelError
from perception_encoder.evaluation.classification.probes import mean_class_accuracy
from perception_encoder.evaluation.classification.splits import Splits
from perception_encoder.evaluation.classification.zero_shot import accuracies, highest, ranked_classes
from perception_encoder.evaluation.embeddings import class_indices
from perception_encoder.evaluation.feature_cache import CachedTokens, Tokens
from perception_encoder.evaluation.inputs import FRAMES, EncoderInputs, inputs_of, settings_digest
from perception_encoder.evaluation.layer_evaluator import LayerEvaluator
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.scores import HEAD_SEEDS, ItemScores, check_head_seeds, with_head_seeds
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.models.initialization import initialize
from perception_encoder.models.layers import AttentionPooling
from perception_encoder.progress import Track, untracked
from perception_encoder.records import Checked, Count, CountOrZero, Positive, Share, Weight


@dataclass(frozen=True, kw_only=True)
class AttentiveConfig(Checked):
    """How the probe is trained."""

    heads: Count = 8
    """Number of attention heads; reduced if it does not divide the width."""
    epochs: Count = 20
    batch: Count = 64
    learning_rates: tuple[Positive, ...] = (3e-4, 1e-3, 3e-3)
    """To try."""
    weight_decay: Weight = 0.05
    warm_up: Share = 0.1
    """Share of the steps with a rising learning rate."""
    seed: CountOrZero = 0
    head_seeds: int = HEAD_SEEDS
    """Number of probes to train, each with its own seed and learning rate; a single probe gives no
    interval."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.learning_rates:
            raise ConfigError("learning_rates is empty; give at least one")
        check_head_seeds(self.head_seeds)


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
        scores = torch.cat([self(_batch(tokens, some, device)).cpu() for some in rows]).numpy()
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
    rates = sorted(config.learning_rates)
    probes = [_train(train, targets, classes, rate, config, device or torch.device("cpu"), track) for rate in rates]
    scores = [mean_class_accuracy(probe.scores(val).argmax(axis=1), val_targets) for probe in probes]
    best = int(np.argmax(scores))
    return probes[best], rates[best]


def _train(
    tokens: Tokens,
    targets: np.ndarray,
    classes: int,
    rate: float,
    config: AttentiveConfig,
    device: torch.device,
    track: Track,
) -> AttentiveProbe:
    width = tokens[np.array([0])].shape[-1]
    generator, order = torch.Generator().manual_seed(config.seed), np.random.default_rng(config.seed)
    probe = AttentiveProbe(width, classes, config.heads, generator).to(device)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in probe.parameters() if p.ndim == 2]},
        {"params": [p for p in probe.parameters() if p.ndim != 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=config.weight_decay)
    counts = np.bincount(targets, minlength=classes)
    weight = torch.from_numpy(1 / np.maximum(counts, 1)).float().to(device)
    steps = config.epochs * -(-len(targets) // config.batch)
    rows = (
        batch
        for _ in range(config.epochs)
        for batch in np.array_split(order.permutation(len(targets)), -(-len(targets) // config.batch))
    )
    for step, batch in enumerate(track(rows, f"probe, learning rate {rate:g}", steps)):
        for group in optimizer.param_groups:
            group["lr"] = rate * _schedule((step + 0.5) / steps, config.warm_up)
        labels = torch.from_numpy(targets[batch]).to(device)
        loss = F.cross_entropy(probe(_batch(tokens, batch, device)), labels, weight)
        if not torch.isfinite(loss):
            raise ModelError(f"the probe's loss is {loss.item()} at learning rate {rate:g}: features are not finite?")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return probe.eval()


def _schedule(done: float, warm_up: float) -> float:
    """Return the factor of the learning rate after a share of the steps: linear warm-up, then half a cosine down."""
    if done < warm_up:
        return done / warm_up
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def _batch(tokens: Tokens, rows: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.asarray(tokens[rows], dtype=np.float32)).to(device)


class AttentiveEvaluator(LayerEvaluator):
    """Classification of images or videos by an attentive probe on one layer."""

    name = "attentive probe"

    def __init__(
        self,
        splits: Splits,
        config: AttentiveConfig | None = None,
        device: torch.device | None = None,
        frames: int = FRAMES,
    ) -> None:
        """`device`: where to train; the CPU by default."""
        self.splits, self.config = splits, config or AttentiveConfig()
        self.device, self.frames = device, frames
        self.parts = {"train": splits.train, "val": splits.val, "test": splits.test}

    @property
    def digest(self) -> str:
        """Digest of the labels and the settings."""
        return settings_digest(self.config, *(part.labels for part in self.parts.values()))

    def images(self, encoder: LayerFeatures, track: Track = untracked) -> Sequence[EncoderInputs]:
        """Return the training, validation and test items."""
        return [inputs_of(part, self.frames) for part in self.parts.values()]

    def score(self, features: Iterable[CachedTokens], track: Track = untracked) -> Measurement:
        """Train and test probes: mean class accuracy, top-1, and top-5 if there are more than five classes."""
        classes, config = self.splits.classes, self.config
        parts = []
        for part, encoded in zip(self.parts.values(), features, strict=True):
            if not len(encoded.rows):
                raise DataError(f"{part.name}: no image can be decoded; the first: {encoded.failures[0]}")
            parts.append((part.select(encoded.rows.tolist()), encoded.tokens))
        (train, tokens), (val, val_tokens), (test, test_tokens) = parts
        targets, val_targets = class_indices(train.labels, classes), class_indices(val.labels, classes)
        rates: list[str] = []

        def score(seed: int) -> tuple[ItemScores, ...]:
            seeded = replace(config, seed=config.seed + seed)
            probe, rate = fit_attentive(
                tokens, targets, val_tokens, val_targets, len(classes), seeded, self.device, track
            )
            rates.append(f"{rate:g}")
            ranked = highest(probe.scores(test_tokens), ranked_classes(classes))
            return accuracies(ranked, test.keys, test.labels, classes)

        scores = with_head_seeds(config.head_seeds, score)
        return Measurement(
            task=test.name,
            method=self.name,
            classes=len(classes),
            settings={
                "layer": str(encoded.layer),
                "lr": "/".join(rates),
                "train": f"{len(train.keys):,}",
                "head seeds": str(config.head_seeds),
            },
            scores=scores,
        )
