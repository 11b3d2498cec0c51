"""The training loop of every stage: it knows no model, loss or data set.

A batch is a pure function of the step, so that a resumed run sees what an unbroken one would have seen, on any number
of ranks. One thread makes the next batches while the current one is trained on.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from perception_encoder.errors import DataError, OutputError
from perception_encoder.models.precision import fast_autocast
from perception_encoder.planning.devices import peak_flops
from perception_encoder.train.checkpoint import Fit, RunState, resume_run, save_run
from perception_encoder.train.distributed import (
    ParallelConfig,
    clip_gradients,
    mean_gradients,
    own_device,
    parallelize,
    this_rank,
)
from perception_encoder.train.metrics import Listener, Metrics
from perception_encoder.train.optimizer import OptimizerConfig, build_optimizer
from perception_encoder.train.schedule import warmup_cosine
from perception_encoder.train.task import Cost, Task

logger = logging.getLogger(__name__)

Batches = Callable[[int], Any]
AHEAD = 2  # batches made in advance
SLOW = 30.0  # seconds of waiting for one batch that are reported


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how fast, how often saved, and what is survived."""

    steps: int
    warmup: int
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    log_every: int = 20
    checkpoint_every: int = 200
    checkpoint_minutes: float = 5.0
    """A checkpoint is also written so long after the last one."""
    keep: int = 2
    """Newest checkpoints that are kept, beside the best."""
    skip_bad_losses: int = 0
    """Steps in a row whose loss is not finite that are left out; one more ends the run."""


def train(
    task: Task,
    batches: Batches,
    config: LoopConfig,
    folder: Path,
    fingerprint: str,
    listener: Listener | None = None,
    stop_after: int | None = None,
    fit: Fit | None = None,
    cost: Cost | None = None,
    trained: int = 0,
) -> None:
    """Train until `config.steps`, or `stop_after`, going on from the folder's newest checkpoint if there is one.

    The model, and every batch by its `to(device)`, are put onto this rank's device, where the model stays.
    `fit`: see `resume_run`. `cost`: then reports have the share of the device's peak that is used (`mfu`), and the
    seconds left are those of work, not of steps. `trained`: steps that this process has done already; beginning later
    is resuming, which is logged. The first step is reported at once. Raises DataError on losses that are not finite:
    the last checkpoint stays. A checkpoint that cannot be written is reported, and tried again at the next one; only
    the last one must succeed.
    """
    device = own_device()
    task.model = parallelize(task.model.to(device).train(), config.parallel)
    optimizer = build_optimizer(task.model, config.optimizer)
    peaks = [group["lr"] for group in optimizer.param_groups]
    state = resume_run(folder, task.model, optimizer, fingerprint, fit)
    first = state.step
    last = config.steps if stop_after is None else min(config.steps, stop_after)
    if trained < first < last and this_rank().number == 0:
        logger.info("resuming from step %d", first)
    group = _Group(config, state, cost, device)
    saved = time.monotonic()
    with closing(Metrics(folder, first, this_rank(), listener)) as metrics:
        for step, batch, wait in prefetch(lambda step: batches(step).to(device), first, last):
            share = warmup_cosine(step, config.steps, config.warmup)
            for parameters, peak in zip(optimizer.param_groups, peaks, strict=True):
                parameters["lr"] = peak * share
            losses = _backward(task, batch)
            if group.counts(step, losses):
                clip_gradients(task.model.parameters(), config.optimizer.max_grad_norm)
                optimizer.step()
                task.after_step()
            optimizer.zero_grad(set_to_none=True)
            group.add(losses, batch, wait)
            done = step + 1
            due = done % config.log_every == 0 or done in (1, last)
            if due or done == first + 1:  # a resumed run's is shown alone: records do not depend on interruptions
                row = {**group.report(done), "lr": float(f"{peaks[0] * share:.4g}"), **task.report()}
                metrics.write({"step": done, **row}, record=due)
            scored = done % config.checkpoint_every == 0 or done == last
            if scored or _first_rank_says(time.monotonic() - saved > 60 * config.checkpoint_minutes, device):
                _save(folder, task, optimizer, group.state(done, fingerprint, scored), config, must=done == last)
                saved = time.monotonic()


def _backward(task: Task, batch: Any) -> dict[str, float]:
    """Gradients of the whole batch's losses, and the losses themselves."""
    with fast_autocast(next(task.model.parameters()).device):
        losses = task.losses(batch)
    total = torch.stack(list(losses.values())).sum()
    (total * this_rank().of).backward()  # the ranks' parts add up; their gradients are averaged
    mean_gradients(task.model)
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    if dist.is_initialized():
        dist.all_reduce(values)
    return dict(zip(losses, values.tolist(), strict=True))


def _first_rank_says(flag: bool, device: torch.device) -> bool:
    """The first rank's flag, on all ranks: their clocks differ, and all must save at the same step."""
    if not dist.is_initialized():
        return flag
    answer = torch.tensor(float(flag), device=device)
    dist.broadcast(answer, 0)
    return bool(answer)


class _Group:
    """The steps since the last report: their losses and speed; and the losses since the last scored checkpoint."""

    def __init__(self, config: LoopConfig, state: RunState, cost: Cost | None, device: torch.device) -> None:
        self._config, self._cost = config, cost
        self._peak = peak_flops(device) if cost and this_rank().number == 0 else math.inf
        self._bad = 0
        self._loss_sum, self._loss_count = state.loss_sum, state.loss_count
        self._start(state.step)

    def _start(self, step: int) -> None:
        self._first, self._since = step, time.perf_counter()
        self._samples, self._waited, self._flops = 0, 0.0, 0.0
        self._newest: dict[str, float] = {}

    def counts(self, step: int, losses: dict[str, float]) -> bool:
        """Whether a step may be taken; DataError after too many that may not."""
        total = sum(losses.values())
        if math.isfinite(total):
            self._bad = 0
            return True
        self._bad += 1
        if self._bad > self._config.skip_bad_losses:
            raise DataError(f"step {step}: the loss is {total}; the last checkpoint is kept, lower the rate")
        logger.warning("step %d: the loss is %s; the step is left out", step, total)
        return False

    def add(self, losses: dict[str, float], batch: Any, wait: float) -> None:
        """Note a step."""
        self._newest, self._samples, self._waited = losses, self._samples + len(batch), self._waited + wait
        self._flops += self._cost.flops(batch) if self._cost else 0
        total = sum(losses.values())
        if math.isfinite(total):
            self._loss_sum, self._loss_count = self._loss_sum + total, self._loss_count + 1
        if wait > SLOW:
            logger.warning("waited %.0f s for a batch: reading is slower than training", wait)

    def report(self, done: int) -> dict[str, float]:
        """The last losses, the speed since the last report, and how long the rest takes at that speed."""
        seconds = time.perf_counter() - self._since
        shares = [self._cost.share(step) if self._cost else step / self._config.steps for step in (self._first, done)]
        speed = {"samples_per_second": self._samples / seconds, "waiting": self._waited / seconds}
        if self._cost:
            speed["mfu"] = self._flops / seconds / self._peak
        speed["seconds_left"] = seconds * (1 - shares[1]) / (shares[1] - shares[0])
        row = {name: round(loss, 5) for name, loss in self._newest.items()}
        self._start(done)
        return row | {name: float(f"{value:.4g}") for name, value in speed.items()}

    def state(self, done: int, fingerprint: str, scored: bool) -> RunState:
        """Where the run stands; scored by the mean loss since that was last done, if any step counted."""
        if not scored:
            return RunState(step=done, fingerprint=fingerprint, loss_sum=self._loss_sum, loss_count=self._loss_count)
        score = self._loss_sum / self._loss_count if self._loss_count else None
        self._loss_sum, self._loss_count = 0.0, 0
        return RunState(step=done, fingerprint=fingerprint, score=score)


def _save(
    folder: Path, task: Task, optimizer: torch.optim.Optimizer, state: RunState, config: LoopConfig, must: bool
) -> None:
    try:
        save_run(folder, task.model, optimizer, state, config.keep)
    except OutputError as error:
        if must:
            raise
        logger.warning("%s; training goes on, and it is tried again at the next checkpoint", error)


def prefetch(batches: Batches, first: int, last: int) -> Iterator[tuple[int, Any, float]]:
    """(step, batch, seconds waited for it), batches made ahead in a thread."""
    with ThreadPoolExecutor(1, "batches", _prepare_thread) as pool:
        pending = [pool.submit(batches, step) for step in range(first, min(first + AHEAD, last))]
        for step in range(first, last):
            start = time.perf_counter()
            batch = pending.pop(0).result()
            wait = time.perf_counter() - start
            if step + AHEAD < last:
                pending.append(pool.submit(batches, step + AHEAD))
            yield step, batch, wait


def _prepare_thread() -> None:
    """Compute alone: a second OpenMP team on the same cores made a step 1.2 times as slow on two cores.

    And on this rank's GPU, or what the thread allocates would open the first one.
    """
    torch.set_num_threads(1)
    device = own_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
