"""Run the stages in pools of processes on this machine: one pool decodes, and each model has a process.

Records flow: clips are decoded while a model captions others. pebble restarts a worker that crashes or times out; its
records are then retried one at a time to find the bad one.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import torch

from perception_encoder.errors import MissingExtraError, PerceptionEncoderError, one_line
from perception_encoder.video_data_engine.config import WorkConfig
from perception_encoder.video_data_engine.journal import (
    PROBE,
    ClipRecord,
    Outcome,
    StageFailure,
    StageResult,
    clips_of,
)
from perception_encoder.video_data_engine.stages import DECODING, EngineStage, Handler, Models

if TYPE_CHECKING:
    from pebble import ProcessPool

logger = logging.getLogger(__name__)

Loaded = Callable[[str, dict[str, Any]], None]
"""Receives a stage's name and what is stored of its model."""
Answer = tuple[list[Outcome], dict[str, Any]]
IN_FLIGHT = 4
"""Records read ahead for each worker, in batches."""


def run_local(
    stages: Sequence[EngineStage], records: Iterable[ClipRecord], work: WorkConfig, loaded: Loaded
) -> Generator[Outcome, None, None]:
    """Take records through their remaining stages and yield each outcome as soon as it is ready.

    A record continues only when the consumer, which stores its outcome, asks for the next one. Raises the
    PerceptionEncoderError of a worker that cannot start or of a request that can never succeed, and MissingExtraError
    without pebble.
    """
    runner = _LocalRunner(stages, records, work, loaded)
    try:
        yield from runner.outcomes()
    finally:
        for group in [*runner.pools]:
            runner.stop(group)


class _LocalRunner:
    """Queues of records, one before each stage, and a pool for each group of stages."""

    def __init__(
        self, stages: Sequence[EngineStage], records: Iterable[ClipRecord], work: WorkConfig, loaded: Loaded
    ) -> None:
        self.stages = {stage.name: stage for stage in stages}
        self.groups: dict[str, list[EngineStage]] = defaultdict(list)
        for stage in stages:
            self.groups[stage.group].append(stage)
        self.records, self.work, self.loaded = iter(records), work, loaded
        self.queues: dict[str, deque[ClipRecord]] = {stage.name: deque() for stage in stages}
        self.pools: dict[str, ProcessPool] = {}
        self.tasks: dict[Future[Answer], tuple[EngineStage, list[ClipRecord]]] = {}
        self.alone: set[tuple[str, str]] = set()
        self.losses: dict[tuple[str, str], int] = defaultdict(int)
        self.broken: set[str] = set()
        self.in_flight = 0
        self.room = IN_FLIGHT * (work.workers + max(stage.batch_size for stage in stages))

    def outcomes(self) -> Iterator[Outcome]:
        """Yield every outcome until nothing is left."""
        while self._refill() or self.tasks:
            self._submit()
            done, _ = wait(self.tasks, return_when=FIRST_COMPLETED)
            for future in done:
                if future in self.tasks:  # else its pool was stopped
                    yield from self._collect(future, *self.tasks.pop(future))

    def stop(self, group: str) -> None:
        """End a group's processes and put their records back into the queues."""
        pool = self.pools.pop(group)
        for future, (stage, batch) in list(self.tasks.items()):
            if stage.group == group:
                del self.tasks[future]
                self.queues[stage.name].extendleft(reversed(batch))
        pool.stop()
        pool.join()

    def _refill(self) -> bool:
        """Read more records while there is room; return whether any is waiting."""
        if self.in_flight < self.room:
            for record in itertools.islice(self.records, self.room - self.in_flight):
                self._enqueue(record)
        return any(self.queues.values())

    def _enqueue(self, record: ClipRecord) -> None:
        if (stage := record.next_stage) is not None:
            self.queues[stage].append(record)
            self.in_flight += 1

    def _submit(self) -> None:
        """Give idle workers batches: the latest stage first, so that clips are finished before others begin."""
        for group, stages in self.groups.items():
            idle = self.work.workers if group == DECODING else 1
            idle -= sum(stage.group == group for stage, _ in self.tasks.values())
            for stage in reversed(stages):
                while idle > 0 and self.queues[stage.name] and not self._is_ahead(stage):
                    idle, batch = idle - 1, self._next_batch(stage)
                    seconds = stage.seconds * len(batch)
                    self.tasks[self._pool(group).schedule(_handle, (stage.name, batch), timeout=seconds)] = stage, batch

    def _pool(self, group: str) -> ProcessPool:
        if group in self.pools and not self.pools[group].active:  # an idle worker was killed
            self.stop(group)
        if group not in self.pools:
            try:
                from pebble import ProcessPool
            except ImportError:
                raise MissingExtraError("pebble", "engine") from None
            context: Any = multiprocessing
            if "forkserver" in multiprocessing.get_all_start_methods():  # starts at once: it has imported this module
                context = multiprocessing.get_context("forkserver")
                context.set_forkserver_preload([__name__])
            decodes = group == DECODING
            threads = 1 if decodes else max(1, (os.cpu_count() or 1) // (len(self.groups) - 1))
            self.pools[group] = ProcessPool(
                max_workers=self.work.workers if decodes else 1,
                initializer=_open_stages,
                initargs=(self.groups[group], threads, dict(os.environ)),
                context=context,
            )
        return self.pools[group]

    def _is_ahead(self, stage: EngineStage) -> bool:
        """Return whether as many records wait for the next stage as may be in memory."""
        names = list(self.queues)
        following = names[names.index(stage.name) + 1 :][:1]
        return any(len(self.queues[name]) >= self.room for name in following)

    def _next_batch(self, stage: EngineStage) -> list[ClipRecord]:
        queue, batch = self.queues[stage.name], list[ClipRecord]()
        while queue and len(batch) < stage.batch_size:
            if (stage.name, queue[0].key) in self.alone:
                return batch or [queue.popleft()]
            batch.append(queue.popleft())
        return batch

    def _collect(self, future: Future[Answer], stage: EngineStage, batch: list[ClipRecord]) -> Iterator[Outcome]:
        from pebble import ProcessExpired

        try:
            outcomes, facts = future.result()
        except TimeoutError:
            yield from self._retry(stage, batch, f"took longer than {stage.seconds:g} s")
        except ProcessExpired as error:
            ending = f"signal {-error.exitcode}" if error.exitcode < 0 else f"exit status {error.exitcode}"
            yield from self._retry(stage, batch, f"ended its worker ({ending})")
        except _UnexpectedError as error:
            self.stop(stage.group)  # a model may be unusable after it
            yield from self._retry(stage, batch, str(error))
        except BrokenProcessPool:  # its last worker ended before it took the batch
            self.stop(stage.group)
            if stage.group in self.broken:
                raise PerceptionEncoderError(f"a worker of {stage.name} ended while it started") from None
            self.broken.add(stage.group)
            self.queues[stage.name].extendleft(reversed(batch))
        else:
            self.broken.discard(stage.group)
            self.loaded(stage.name, facts)
            for record, outcome in zip(batch, outcomes, strict=True):
                yield outcome
                self.in_flight -= 1
                if isinstance(outcome, StageResult):
                    record = record.after(outcome)
                    for clip in clips_of(record) if outcome.stage == PROBE else [record]:
                        self._enqueue(clip)

    def _retry(self, stage: EngineStage, batch: list[ClipRecord], reason: str) -> Iterator[Outcome]:
        """Queue lost records to be retried alone; a record that was lost alone in every attempt is a failure."""
        for record in batch:
            task = (stage.name, record.key)
            self.alone.add(task)
            self.losses[task] += len(batch) == 1
            if self.losses[task] < self.work.tries:
                self.queues[stage.name].appendleft(record)
                continue
            yield StageFailure(
                key=record.key,
                stage=stage.name,
                source=record.item.name,
                reason=f"{reason}; attempts: {self.work.tries}",
                cause="video",
            )
            self.in_flight -= 1


class _UnexpectedError(Exception):
    """An exception of a model or a library, as text: the exception itself may not survive pickling."""


_opened: dict[str, tuple[Handler, dict[str, Any]]] = {}
_problems: list[PerceptionEncoderError] = []


def _open_stages(stages: Sequence[EngineStage], threads: int, environment: dict[str, str]) -> None:
    """Load a worker's models; a problem is raised by its first task, since pebble would only log it.

    `environment`: the parent's; the fork server may have an older one.
    """
    os.environ.clear()
    os.environ.update(environment)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    torch.set_num_threads(threads)
    models: Models = {}
    try:
        _opened.update({stage.name: stage.open(models) for stage in stages})
    except PerceptionEncoderError as error:
        _problems.append(error)
    except Exception as error:
        _problems.append(PerceptionEncoderError(f"a worker failed: {type(error).__name__}: {one_line(error)}"))


def _handle(stage: str, batch: list[ClipRecord]) -> Answer:
    """Take records through a stage, in a worker; also return what is stored of its model."""
    if _problems:
        raise _problems[0]
    handler, facts = _opened[stage]
    try:
        return handler(batch), facts
    except PerceptionEncoderError:
        raise
    except Exception as error:
        logger.info("a worker failed", exc_info=error)
        raise _UnexpectedError(f"{type(error).__name__}: {one_line(error)}") from None
