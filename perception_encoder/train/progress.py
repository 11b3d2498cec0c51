"""Follow a run between its reports: losses, speed, the time left, and the score of a checkpoint without validation."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from perception_encoder.errors import DataError
from perception_encoder.planning.devices import peak_flops
from perception_encoder.train.checkpoint import RunState
from perception_encoder.train.distributed import this_rank
from perception_encoder.train.task import Cost

logger = logging.getLogger(__name__)

SLOW = 30.0  # seconds of waiting for one batch that are reported


class StepGroup:
    """The steps since the last report: their losses and speed; and the losses since the last scored checkpoint.

    `steps`: of the whole run. `bad_losses`: steps in a row whose loss may be not finite.
    """

    def __init__(self, steps: int, bad_losses: int, state: RunState, cost: Cost | None, device: torch.device) -> None:
        self._steps, self._bad_losses, self._cost = steps, bad_losses, cost
        self._peak = peak_flops(device) if cost and this_rank().number == 0 else math.inf
        self._bad = 0
        self._loss_sum, self._loss_count = state.loss_sum, state.loss_count
        self._start(state.step)

    def _start(self, step: int) -> None:
        self._first, self._since = step, time.perf_counter()
        self._samples, self._waited, self._flops = 0, 0.0, 0.0
        self._newest: dict[str, float] = {}

    def counts(self, step: int, losses: dict[str, float]) -> bool:
        """Return whether a step may be taken; DataError after too many that may not."""
        total = sum(losses.values())
        if math.isfinite(total):
            self._bad = 0
            return True
        self._bad += 1
        if self._bad > self._bad_losses:
            raise DataError(f"step {step}: the loss is {total}; the last checkpoint stays, lower the rate")
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

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time until the block ends out of the speed."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def report(self, done: int) -> dict[str, float]:
        """Return the last losses, the speed since the last report, and how long the rest takes at that speed."""
        seconds = time.perf_counter() - self._since
        shares = [self._cost.share(step) if self._cost else step / self._steps for step in (self._first, done)]
        speed = {"samples_per_second": self._samples / seconds, "waiting": self._waited / seconds}
        if self._cost:
            speed["mfu"] = self._flops / seconds / self._peak
        speed["seconds_left"] = seconds * (1 - shares[1]) / (shares[1] - shares[0])
        row = {name: round(loss, 5) for name, loss in self._newest.items()}
        self._start(done)
        return row | {name: float(f"{value:.4g}") for name, value in speed.items()}

    def state(self, done: int, fingerprint: str, scored: bool, best: float | None, best_step: int | None) -> RunState:
        """Return where the run stands; scored by the mean loss since that was last done, if any step counted."""
        score = self._loss_sum / self._loss_count if scored and self._loss_count else None
        if scored:
            self._loss_sum, self._loss_count = 0.0, 0
        return RunState(
            step=done,
            fingerprint=fingerprint,
            score=score,
            best=best,
            best_step=best_step,
            loss_sum=self._loss_sum,
            loss_count=self._loss_count,
        )
