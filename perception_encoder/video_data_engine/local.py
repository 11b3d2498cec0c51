"""Run the stages in processes on this machine: several for decoding, and one per model.

Each worker is a pebble pool of one process: in one pool, a killed worker can leave locks unusable for the others.
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

from perception_encoder.errors import PerceptionEncoderError, needs_extra, one_line
from perception_encoder.files import safe_imports
from perception_encoder.video_data_engine.config import WorkConfig
from perception_encoder.video_data_engine.journal import ClipRecord, Outcome
from perception_encoder.video_data_engine.stages import DECODING, EngineStage, Handler, Models

if TYPE_CHECKING:
    from pebble import ProcessPool

logger = logging.getLogger(__name__)

Loaded = Callable[[str, dict[str, Any]], None]
"""Receives a stage's name and the facts to store about its model."""
Answer = tuple[list[Outcome], dict[str, Any]]
Worker = tuple[str, int]
"""A group of stages, and the worker's number."""
IN_FLIGHT = 4
"""Number of batches of records read ahead for each worker."""
_TICK = 1.0
"""Seconds between checks of the workers."""


def run_local(
    stages: Sequence[EngineStage], records: Iterable[ClipRecord], work: WorkConfig, loaded: Loaded
) -> Generator[Outcome, None, None]:
    """Take records through their remaining stages and yield each outcome as soon as it is ready.

    A record continues only when the consumer, which stores its outcome, asks for the next one. Raises the
    PerceptionEncoderError of a worker that cannot start or of a request that can never succeed, and MissingExtraError
    without pebble.
    """
    return _LocalRunner(stages, records, work, loaded).outcomes()


class _LocalRunner:
    """Queues of records, one per stage, and the workers of each group of stages."""

    def __init__(
        self, stages: Sequence[EngineStage], records: Iterable[ClipRecord], work: WorkConfig, loaded: Loaded
    ) -> None:
        self.groups: dict[str, list[EngineStage]] = defaultdict(list)
        for stage in stages:
            self.groups[stage.group].append(stage)
        self.records, self.work, self.loaded = iter(records), work, loaded
        self.queues: dict[str, deque[ClipRecord]] = {stage.name: deque() for stage in stages}
        self.pools: dict[Worker, ProcessPool] = {}
        self.tasks: dict[Future[Answer], tuple[Worker, EngineStage, list[ClipRecord]]] = {}
        self.losses: dict[tuple[str, str], int] = defaultdict(int)
        self.broken: dict[str, int] = defaultdict(int)
        self.in_flight = 0
        self.room = IN_FLIGHT * (work.workers + max(stage.batch_size for stage in stages))

    def outcomes(self) -> Generator[Outcome, None, None]:
        """Yield every outcome until no work is left; stop all workers at the end."""
        with safe_imports():
            try:
                while self._refill() or self.tasks:
                    self._submit()
                    done, waiting = wait(self.tasks, _TICK, return_when=FIRST_COMPLETED)
                    for worker in {self.tasks[future][0] for future in waiting}:
                        if not self.pools[worker].active:  # it was killed just before it was given a batch
                            self.stop(worker)
                    for future in done:
                        if future in self.tasks:  # else its pool was stopped
                            yield from self._collect(future, *self.tasks.pop(future))
            finally:
                for worker in [*self.pools]:
                    self.stop(worker)

    def stop(self, worker: Worker) -> None:
        """Stop a worker and return its records to the queue."""
        pool = self.pools.pop(worker)
        for future, (owner, stage, batch) in list(self.tasks.items()):
            if owner == worker:
                del self.tasks[future]
                self.queues[stage.name].extendleft(reversed(batch))
        pool.stop()
        pool.join()

    def _refill(self) -> bool:
        for record in itertools.islice(self.records, max(0, self.room - self.in_flight)):
            self._enqueue(record)
        return any(self.queues.values())

    def _enqueue(self, record: ClipRecord) -> None:
        if (stage := record.next_stage) is not None:
            self.queues[stage].append(record)
            self.in_flight += 1

    def _submit(self) -> None:
        """Give idle workers batches for the latest stage first, so that clips finish before others start."""
        busy = {worker for worker, _, _ in self.tasks.values()}
        for group, stages in self.groups.items():
            workers = [(group, number) for number in range(self.work.workers if group == DECODING else 1)]
            idle = [worker for worker in workers if worker not in busy]
            for stage in reversed(stages):
                while idle and self.queues[stage.name] and not self._is_ahead(stage):
                    worker, batch = idle.pop(0), self._next_batch(stage)
                    seconds = stage.seconds * len(batch)
                    future = self._pool(worker).schedule(_handle, (stage.name, batch), timeout=seconds)
                    self.tasks[future] = worker, stage, batch

    def _pool(self, worker: Worker) -> ProcessPool:
        if worker in self.pools and not self.pools[worker].active:  # it was killed while it was idle
            self.stop(worker)
        if worker not in self.pools:
            with needs_extra("engine", "pebble"):
                from pebble import ProcessPool
            context: Any = multiprocessing
            if "forkserver" in multiprocessing.get_all_start_methods():  # starts at once: it has imported this module
                context = multiprocessing.get_context("forkserver")
                context.set_forkserver_preload([__name__])
            group, _ = worker
            threads = 1 if group == DECODING else max(1, (os.cpu_count() or 1) // (len(self.groups) - 1))
            self.pools[worker] = ProcessPool(
                max_workers=1,
                initializer=_open_stages,
                initargs=(self.groups[group], threads, dict(os.environ)),
                context=context,
            )
        return self.pools[worker]

    def _is_ahead(self, stage: EngineStage) -> bool:
        names = list(self.queues)
        following = names[names.index(stage.name) + 1 :][:1]
        return any(len(self.queues[name]) >= self.room for name in following)

    def _next_batch(self, stage: EngineStage) -> list[ClipRecord]:
        queue, batch = self.queues[stage.name], list[ClipRecord]()
        while queue and len(batch) < stage.batch_size:
            if (stage.name, queue[0].key) in self.losses:
                return batch or [queue.popleft()]
            batch.append(queue.popleft())
        return batch

    def _collect(
        self, future: Future[Answer], worker: Worker, stage: EngineStage, batch: list[ClipRecord]
    ) -> Iterator[Outcome]:
        from pebble import ProcessExpired

        try:
            outcomes, facts = future.result()
        except TimeoutError:
            yield from self._retry(stage, batch, f"took longer than {stage.seconds:g} s")
        except ProcessExpired as error:
            self.stop(worker)  # it may have left a lock or half an answer in its pipe
            ending = f"signal {-error.exitcode}" if error.exitcode < 0 else f"exit status {error.exitcode}"
            yield from self._retry(stage, batch, f"ended its worker ({ending})")
        except _UnexpectedError as error:
            self.stop(worker)  # a model may be unusable after it
            yield from self._retry(stage, batch, str(error))
        except BrokenProcessPool:  # it ended before it took the batch
            self.stop(worker)
            self.broken[stage.group] += 1
            if self.broken[stage.group] >= max(2, self.work.tries):
                raise PerceptionEncoderError(f"a worker of {stage.name} ended while it started") from None
            self.queues[stage.name].extendleft(reversed(batch))
        else:
            self.broken[stage.group] = 0
            self.loaded(stage.name, facts)
            for record, outcome in zip(batch, outcomes, strict=True):
                yield outcome
                self.in_flight -= 1
                for following in record.after(outcome):
                    self._enqueue(following)

    def _retry(self, stage: EngineStage, batch: list[ClipRecord], reason: str) -> Iterator[Outcome]:
        """Queue lost records for separate retries; a record lost alone in every attempt is a failure."""
        for record in batch:
            task = (stage.name, record.key)
            self.losses[task] += len(batch) == 1
            if self.losses[task] < self.work.tries:
                self.queues[stage.name].appendleft(record)
                continue
            yield record.failure(stage.name, f"{reason}; attempts: {self.work.tries}")
            self.in_flight -= 1


class _UnexpectedError(Exception):
    """The text of an exception from a model or a library; the exception itself might not survive pickling."""


_opened: dict[str, tuple[Handler, dict[str, Any]]] = {}
_problems: list[PerceptionEncoderError] = []


def _open_stages(stages: Sequence[EngineStage], threads: int, environment: dict[str, str]) -> None:
    """Load a worker's models; a problem is raised by the first task, as pebble would only log it.

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
