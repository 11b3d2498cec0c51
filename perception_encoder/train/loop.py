"""The training loop of every stage: it knows no model, loss or data set.

A batch is a pure function of the step, so that a resumed run sees what an unbroken one would have seen. One thread
makes the next batches while the current one is trained on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from perception_encoder.errors import DataError
from perception_encoder.models.precision import fast_dtype
from perception_encoder.train.checkpoint import RunState, resume_run, save_run
from perception_encoder.train.metrics import Listener, Metrics
from perception_encoder.train.optimizer import OptimizerConfig, build_optimizer
from perception_encoder.train.schedule import warmup_cosine
from perception_encoder.train.task import Task

Batches = Callable[[int], Any]
AHEAD = 2  # batches made in advance


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how fast, how often saved."""

    steps: int
    warmup: int
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    log_every: int = 20
    checkpoint_every: int = 200


def train(
    task: Task,
    batches: Batches,
    config: LoopConfig,
    folder: Path,
    fingerprint: str,
    listener: Listener | None = None,
    stop_after: int | None = None,
) -> None:
    """Train until `config.steps`, resuming from the folder's checkpoint if there is one.

    Raises DataError on a loss that is not finite: the last checkpoint stays.
    """
    model = task.model.train()
    optimizer = build_optimizer(model, config.optimizer)
    peaks = [group["lr"] for group in optimizer.param_groups]
    first = resume_run(folder, model, optimizer, fingerprint)
    metrics = Metrics(folder, first, listener)
    device = next(model.parameters()).device
    dtype = fast_dtype(device)
    last = config.steps if stop_after is None else min(config.steps, stop_after)
    since, samples, waited = time.perf_counter(), 0, 0.0
    for step, batch, wait in prefetch(batches, first, last):
        share = warmup_cosine(step, config.steps, config.warmup)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * share
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            losses = task.losses(batch)
        total = torch.stack(list(losses.values())).sum()
        if not math.isfinite(total.item()):
            raise DataError(f"step {step}: the loss is {total.item()}; the last checkpoint is kept, lower the rate")
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        task.after_step()
        samples, waited, done = samples + len(batch), waited + wait, step + 1
        if done % config.log_every == 0 or done == last:
            seconds = time.perf_counter() - since
            values = {name: round(loss.item(), 5) for name, loss in losses.items()}
            speed = {"samples_per_second": samples / seconds, "waiting": waited / seconds, "lr": peaks[0] * share}
            metrics.write({"step": done, **values, **{name: float(f"{v:.4g}") for name, v in speed.items()}})
            since, samples, waited = time.perf_counter(), 0, 0.0
        if done % config.checkpoint_every == 0 or done == last:
            save_run(folder, model, optimizer, RunState(done, fingerprint))


def prefetch(batches: Batches, first: int, last: int) -> Iterator[tuple[int, Any, float]]:
    """(step, batch, seconds waited for it), batches made ahead in a thread.

    That thread computes alone: a second OpenMP team on the same cores made a step 1.2 times as slow on two cores.
    """
    with ThreadPoolExecutor(1, "batches", torch.set_num_threads, (1,)) as pool:
        pending = [pool.submit(batches, step) for step in range(first, min(first + AHEAD, last))]
        for step in range(first, last):
            start = time.perf_counter()
            batch = pending.pop(0).result()
            wait = time.perf_counter() - start
            if step + AHEAD < last:
                pending.append(pool.submit(batches, step + AHEAD))
            yield step, batch, wait
