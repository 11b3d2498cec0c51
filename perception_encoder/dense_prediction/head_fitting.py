"""Fit heads on frozen features in memory, by the steps of the training loop: AdamW with warm-up and cosine decay.

Feature scales differ between layers by orders of magnitude, so every head first standardises them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from perception_encoder.errors import DataError, ModelError
from perception_encoder.models.precision import fast_autocast
from perception_encoder.progress import Track, untracked
from perception_encoder.records import Checked, Count, CountOrZero, Positive, Share, Weight
from perception_encoder.training.loop import update
from perception_encoder.training.optimizer import OptimizerConfig, build_optimizer, learning_rate


class Maps(Protocol):
    """Features of images (n, h, w, D): an array in memory, mapped from disk, or computed when read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class FitConfig(Checked):
    """Length and rate of a head's fit."""

    epochs: Count = 20
    """Passes over all items."""
    batch: Count = 16
    lr: Positive = 1e-3
    """Peak learning rate (appendix B.3: 1e-3 for segmentation)."""
    weight_decay: Weight = 0.01
    warm_up: Share = 0.1
    """Share of the steps with a rising learning rate."""
    seed: CountOrZero = 0
    """Seed of the initial weights and the order of items."""

    def with_seed(self, seed: int) -> FitConfig:
        """Return the config with its seed raised by `seed`."""
        return replace(self, seed=self.seed + seed)


class Standardize(nn.Module):
    """Features (B, h, w, D) to (B, D, h, w) with mean 0 and deviation 1 over the training items."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def measure(self, features: Maps, chunk: int = 256) -> None:
        sums, count = np.zeros((2, features.shape[-1])), 0
        for start in range(0, len(features), chunk):
            part = np.asarray(features[start : start + chunk], dtype=np.float64).reshape(-1, features.shape[-1])
            sums, count = sums + np.stack([part.sum(axis=0), (part**2).sum(axis=0)]), count + len(part)
        mean, square = sums / count
        self.mean.copy_(torch.from_numpy(mean))
        self.deviation.copy_(torch.from_numpy(np.sqrt(np.maximum(square - mean**2, 1e-12))))

    def forward(self, features: Float[Tensor, "B h w D"]) -> Float[Tensor, "B D h w"]:
        return ((features - self.mean) / self.deviation).permute(0, 3, 1, 2)


def fit_head(
    head: nn.Module,
    loss: Callable[[np.ndarray], Tensor],
    count: int,
    config: FitConfig,
    description: str,
    track: Track = untracked,
) -> None:
    """Minimise a head's loss on batches of item indices below `count`, where the head is; then set it to eval mode.

    Raises ModelError if the loss is not finite, and DataError without items.
    """
    if not count:
        raise DataError(f"{description}: there are no items to fit on")
    settings = OptimizerConfig(name="adamw", lr=config.lr, betas=(0.9, 0.999), weight_decay=config.weight_decay)
    optimizer, device = build_optimizer(head, settings), next(head.parameters()).device
    steps = config.epochs * -(-count // config.batch)
    head.train()
    for step, rows in enumerate(track(_batches(count, config), description, steps)):
        with fast_autocast(device):
            value = loss(rows)
        if not torch.isfinite(value):
            raise ModelError(
                f"{description}: the loss is {value.item()}; the features are not finite, or lr is too high"
            )
        value.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        rate = config.lr * learning_rate(step, steps, int(config.warm_up * steps))
        update(head, optimizer, [rate] * len(optimizer.param_groups), None)
    head.eval()


def _batches(count: int, config: FitConfig) -> Iterator[np.ndarray]:
    order = np.random.default_rng(config.seed)
    for _ in range(config.epochs):
        yield from np.array_split(order.permutation(count), -(-count // config.batch))


def resized_maps(read: Callable[[int], np.ndarray], count: int, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return items' maps (H, W), by index, resized to the nearest value: (count, *size)."""
    maps = torch.empty(count, *size, dtype=dtype)
    for index in range(count):
        values = torch.from_numpy(np.asarray(read(index), dtype=np.float32))
        maps[index] = F.interpolate(values[None, None], size, mode="nearest-exact")[0, 0].to(dtype)
    return maps


def take(features: Maps, rows: Sequence[int] | np.ndarray | slice) -> Tensor:
    """Return items' features as a float32 tensor (b, h, w, D)."""
    return torch.from_numpy(np.array(features[rows], dtype=np.float32))
