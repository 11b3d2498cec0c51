"""Where a step's time goes, and how fast this machine multiplies matrices of the step's shapes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.train.contenders import UPDATE, Step
from perception_encoder.data.pairs import ImageTextBatch
from perception_encoder.models.config import VisionConfig

KINDS = {
    "matrix products of layers": ("aten::mm", "aten::addmm", "aten::linear", "convolution"),
    "attention: products and softmax": ("aten::bmm", "softmax", "scaled_dot_product", "_Rotation"),
    "norms and GELU": ("layer_norm", "gelu"),
    "casts, copies and joins": ("copy", "aten::cat", "aten::clone", "aten::contiguous", "aten::to", "aten::index"),
}
"""Kinds of operations, and what their names contain; the first kind that fits counts."""
OPTIMIZER, OTHER = "clipping and optimizer", "sums and all else"
REPEATS = 7


def shares(step: Step, batches: Sequence[ImageTextBatch]) -> dict[str, float]:
    """Share of a step's time by kind of operation."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for batch in batches:
            step(batch)
    spent = dict.fromkeys([*KINDS, OPTIMIZER, OTHER], 0.0)
    for event in profiler.events():
        spent[_kind(event)] += event.self_cpu_time_total
    total = sum(spent.values())
    return {kind: seconds / total for kind, seconds in spent.items()}


def _kind(event: Any) -> str:
    above = event
    while above is not None:
        if above.name == UPDATE:
            return OPTIMIZER
        above = above.cpu_parent
    return next((kind for kind, names in KINDS.items() if any(name in event.name for name in names)), OTHER)


def layer_products(config: VisionConfig, images: int, image_size: int, dtype: torch.dtype) -> float:
    """Operations a second of a block's four linear layers alone, forward and backward, on the shapes of a batch."""
    tokens = images * ((image_size // config.patch_size) ** 2 + int(config.class_token))
    width, hidden = config.width, config.mlp_width
    shapes = ((3 * width, width), (width, width), (hidden, width), (width, hidden))
    operands = [
        (
            torch.randn(rows, columns).to(dtype),
            torch.randn(tokens, columns).to(dtype),
            torch.randn(tokens, rows).to(dtype),
        )
        for rows, columns in shapes
    ]

    def run() -> None:
        for weight, x, gradient in operands:
            torch.nn.functional.linear(x, weight)
            gradient @ weight
            gradient.T @ x

    return 6 * tokens * sum(rows * columns for rows, columns in shapes) / median_seconds(run)


@torch.no_grad()
def median_seconds(run: Callable[[], None]) -> float:
    """Of some repeats, after one that warms up."""
    run()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
