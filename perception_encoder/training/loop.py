"""Train the task of any stage; the loop knows no model, loss or dataset.

A batch is a pure function of the step, so a resumed run sees what an uninterrupted one would have seen, on any number
of ranks. A thread prepares the next batches while the model trains on the current one.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from perception_encoder.errors import ConfigError, DataError, OutputError
from perception_encoder.models.precision import fast_autocast
from perception_encoder.ranks import ALONE
from perception_encoder.training.checkpoint import Fit, RunState, resume_run, save_run
from perception_encoder.training.config import TrainingConfig, ValidationConfig
from perception_encoder.training.distributed import (
    Exchange,
    clip_gradients,
    mean_gradients,
    own_device,
    parallelize,
    this_rank,
)
from perception_encoder.training.metrics import Listener, Metrics
from perception_encoder.training.optimizer import build_optimizer, learning_rate
from perception_encoder.transfer import Arriving

logger = logging.getLogger(__name__)

Batches = Callable[[int], Any]
AHEAD = 2  # batches made in advance


class Validation(Protocol):
    """Scores a model on held-out data."""

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        """Return whether higher is better for each metric, the default one first."""
        ...

    def validate(self, metric: str) -> dict[str, float]:
        """Return scores by metric, or none if the data give none; all ranks call it. Training must not depend on it."""
        ...


class Task(Protocol):
    """A model and the losses of a batch, whose sum is minimised."""

    model: nn.Module  # everything trained and saved; the loop replaces it by its parallel form
    validation: Validation | None  # scores the model during training

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Return the scalar losses of a batch by name; with several ranks, this rank's shares."""
        ...

    def report(self) -> dict[str, float]:
        """Return additional values for reports, such as the logit scale; by default none."""
        return {}

    def after_step(self) -> None:
        """Clamp parameters after an optimizer step; by default none."""
        return


@dataclass(frozen=True)
class Section:
    """Consecutive steps of a run with the same task."""

    task: Task
    batches: Batches
    end: int | None = None
    """The step at which the section ends; by default the run's last one."""
    work: Sequence[tuple[int, float]] = ()
    """Steps of the run's phases and the work of a step, to estimate the time left; by default all are equal."""
    fit: Fit | None = None
    """Converts saved tensors of another shape (see `resume_run`)."""


def train_steps(
    section: Section,
    config: TrainingConfig,
    directory: Path,
    fingerprint: str,
    listener: Listener | None = None,
    trained: int = 0,
) -> str:
    """Train to the end of a section, resuming from the directory's newest checkpoint if there is one.

    Returns the validation's metric, empty without one.

    The model, and every batch by its `to(device)`, are moved to this rank's device, where the model stays. The first
    step is reported at once. If `config` has a validation, the task's scores are reported and the checkpoint with the
    best one is kept. A checkpoint that cannot be written is logged and retried at the next one; only the last one must
    succeed.

    SIGINT (Ctrl-C) and SIGTERM to any rank end the run on all of them after the step and its checkpoint, by
    KeyboardInterrupt and SystemExit(143). A second Ctrl-C interrupts a lone process at once.

    Args:
        trained: Steps that this process has already done; starting later means resuming, which is logged.

    Raises:
        ConfigError: The task lacks the metric.
        DataError: A loss is not finite; the last checkpoint stays.
    """
    task = section.task
    validation, higher_is_better = task.validation, task.validation.higher_is_better if task.validation else {}
    metric = choose_metric(config.validation, higher_is_better) if config.validation else ""
    device = own_device()
    task.model = parallelize(task.model.to(device).train(), config.parallel)
    optimizer = build_optimizer(task.model, config.optimizer)
    peaks = [group["lr"] for group in optimizer.param_groups]
    state = resume_run(directory, task.model, optimizer, fingerprint, section.fit)
    first, last = state.step, config.steps if section.end is None else section.end
    if trained < first < last and this_rank().is_first:
        logger.info("resuming from step %d", first)
    group, saved = StepGroup(section.work or [(config.steps, 1.0)], first), time.monotonic()
    exchange, earlier = Exchange(), None
    with closing(Metrics(directory, first, this_rank(), listener)) as metrics, _stop_requests() as signals:
        for step, batch, wait in prefetch(lambda step: section.batches(step).to(device), first, last):
            share = learning_rate(step, config.steps, config.warmup, config.drops, config.floor)
            losses = _backward(task, batch, step)
            (earlier or losses).check()
            earlier = losses if losses.values.waits else None  # read while a GPU computes the next step
            update(task.model, optimizer, [peak * share for peak in peaks], config.optimizer.max_grad_norm)
            task.after_step()
            group.add(batch, wait)
            done = step + 1
            due = done % config.log_every == 0 or done in (1, last)
            if due or done == first + 1:  # after resuming shown but not recorded: records don't show interruptions
                row = {**losses.check(), **group.report(done), "lr": float(f"{peaks[0] * share:.4g}"), **task.report()}
                metrics.write({"step": done, **row}, record=due)
            newest = replace(state, step=done)
            if validation and config.validation and (done % config.validation.every == 0 or done == config.steps):
                losses.check()
                with group.paused():
                    scores = exchange(_validate(validation, metric, task, device))[0]
                metrics.write({"step": done, **{f"validation/{name}": score for name, score in scores.items()}})
                if metric in scores and is_better(scores[metric], state.best, higher_is_better[metric]):
                    newest = replace(newest, best=scores[metric], best_step=done)
            mine = time.monotonic() - saved > 60 * config.checkpoint_minutes, max(signals, default=0)
            late, stop = map(max, zip(*exchange(mine), strict=True))  # as all ranks must do the same
            if done % config.checkpoint_every == 0 or done == last or newest.best_step == done or late or stop:
                losses.check()
                if _save(directory, task, optimizer, newest, config.keep, must=done == last):
                    state = newest
                saved = time.monotonic()
            if stop:
                _stop(int(stop), done, written=state.step == done)
    return metric


def choose_metric(config: ValidationConfig, higher_is_better: Mapping[str, bool]) -> str:
    """Return the metric that selects the best step; ConfigError lists the task's metrics."""
    metric = config.metric or next(iter(higher_is_better), None)
    if metric is None or metric not in higher_is_better:
        known = ", ".join(higher_is_better) or "none; set validation=null"
        raise ConfigError(f"validation.metric is {config.metric!r}; the task has {known}")
    return metric


def is_better(score: float, best: float | None, higher_is_better: bool) -> bool:
    """Return whether a score beats the best one so far; non-finite scores never do."""
    if not math.isfinite(score):
        return False
    return best is None or (score > best if higher_is_better else score < best)


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM while the block runs, if in the main thread."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if number == signal.SIGINT and received and this_rank() == ALONE:  # torchrun repeats it for its processes
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: signal.signal(number, note) for number, handler in before.items() if handler != signal.SIG_IGN}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, step: int, written: bool) -> NoReturn:
    if written and this_rank().is_first:
        logger.info("stopped by %s; wrote the checkpoint of step %d", signal.Signals(number).name, step)
    if dist.is_initialized():
        dist.barrier()  # as at the end of `process_group`
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def update(
    model: nn.Module, optimizer: torch.optim.Optimizer, rates: Sequence[float], max_grad_norm: float | None
) -> None:
    """Take a step at the rates of the parameter groups, with the gradients clipped, and drop them."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    if max_grad_norm is not None:
        clip_gradients(model.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _validate(validation: Validation, metric: str, task: Task, device: torch.device) -> dict[str, float]:
    """Score the model, without side effects on training."""
    task.model.eval()
    with torch.no_grad(), fast_autocast(device):
        scores = validation.validate(metric)
    task.model.train()
    return scores


def _backward(task: Task, batch: Any, step: int) -> StepLosses:
    """Compute gradients of the whole batch's losses, and return the losses."""
    with fast_autocast(next(task.model.parameters()).device):
        losses = task.losses(batch)
    total = torch.stack(list(losses.values())).sum()
    (total * this_rank().world_size).backward()  # the ranks' shares add up; their gradients are averaged
    mean_gradients(task.model)
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    if dist.is_initialized():
        dist.all_reduce(values)
    return StepLosses(step, list(losses), Arriving(values))


@dataclass(frozen=True)
class StepLosses:
    """The losses of a step, which a GPU may still compute."""

    step: int
    names: Sequence[str]
    values: Arriving

    def check(self) -> dict[str, float]:
        """Return the losses, rounded; DataError unless their sum is finite."""
        values = self.values.get().tolist()
        if not math.isfinite(total := sum(values)):
            raise DataError(
                f"step {self.step}: the loss is {total}; lower the rate and resume from the last checkpoint"
            )
        return {name: round(value, 5) for name, value in zip(self.names, values, strict=True)}


def _save(
    directory: Path, task: Task, optimizer: torch.optim.Optimizer, state: RunState, keep: int, must: bool
) -> bool:
    """Write a checkpoint; return whether that succeeded. With `must`, raise on failure."""
    try:
        save_run(directory, task.model, optimizer, state, keep)
    except OutputError as error:
        if must:
            raise
        logger.warning("%s; training continues, and the next checkpoint is tried", error)
        return False
    return True


def prefetch(batches: Batches, first: int, last: int) -> Iterator[tuple[int, Any, float]]:
    """Yield (step, batch, seconds waited); a thread makes batches in advance."""
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
    """Set the thread to one core and this rank's GPU.

    A second OpenMP team made a step 1.2 times as slow on two cores; without a device, allocations would open GPU 0.
    """
    torch.set_num_threads(1)
    device = own_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)


class StepGroup:
    """Measures the speed since the last report; `work`: see `Section`, `step`: the first one."""

    def __init__(self, work: Sequence[tuple[int, float]], step: int) -> None:
        self._work = work
        self._start(step)

    def _start(self, step: int) -> None:
        self._first, self._since = step, time.perf_counter()
        self._samples, self._waited = 0, 0.0

    def add(self, batch: Any, wait: float) -> None:
        self._samples, self._waited = self._samples + len(batch), self._waited + wait

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of the block from the speed."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def report(self, done: int) -> dict[str, float]:
        """Report the speed since the last report, and the remaining time at that speed."""
        seconds = time.perf_counter() - self._since
        speed = {
            "samples_per_second": self._samples / seconds,
            "waiting": self._waited / seconds,
            "seconds_left": seconds * self._work_between(done, None) / self._work_between(self._first, done),
        }
        self._start(done)
        return {name: float(f"{value:.4g}") for name, value in speed.items()}

    def _work_between(self, first: int, last: int | None) -> float:
        """Return the work of some steps, by default to the end."""
        total, start = 0.0, 0
        for steps, work in self._work:
            end = start + steps if last is None else min(start + steps, last)
            total, start = total + work * max(0, end - max(start, first)), start + steps
        return total
