"""Run the stages in processes of this machine, one group of stages beside the other.

Records flow: while a model captions one clip, others are decoded. A process that dies or takes too long is replaced;
its records are tried again one by one, so that the one that it dies of is told from the others.
"""

from __future__ import annotations

import itertools
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

from perception_encoder.errors import PerceptionEncoderError
from perception_encoder.video_data_engine.config import WorkConfig
from perception_encoder.video_data_engine.record import (
    PROBE,
    ClipRecord,
    Outcome,
    StageFailure,
    StageResult,
    clips_of,
)
from perception_encoder.video_data_engine.runners.worker import StageProcess
from perception_encoder.video_data_engine.stages import DECODING, EngineStage

Loaded = Callable[[str, dict[str, Any]], None]
"""Is called with a stage's name and what is stored of its model, once it is loaded."""
IN_FLIGHT = 4
"""Records of a batch's size that are read ahead for each process."""
_TICK = 0.5


def run_local(
    stages: Sequence[EngineStage], records: Iterable[ClipRecord], work: WorkConfig, loaded: Loaded
) -> Iterator[Outcome]:
    """Take records through the stages that they still need, and yield each outcome when it is there.

    The consumer stores an outcome before it takes the next one: only then does its record go on. Raises a
    PerceptionEncoderError of a process that could not start, or that no request can succeed.
    """
    runner = _Runner(stages, records, work, loaded)
    try:
        yield from runner.outcomes()
    finally:
        runner.end()


class _Runner:
    """Queues of records before each stage, and the processes."""

    def __init__(
        self, stages: Sequence[EngineStage], records: Iterable[ClipRecord], work: WorkConfig, loaded: Loaded
    ) -> None:
        self.stages = {stage.name: stage for stage in stages}
        self.groups: dict[str, list[EngineStage]] = defaultdict(list)
        for stage in stages:
            self.groups[stage.group].append(stage)
        self.records, self.work, self.loaded = iter(records), work, loaded
        self.queues: dict[str, deque[ClipRecord]] = {stage.name: deque() for stage in stages}
        self.alone: set[tuple[str, str]] = set()
        self.losses: dict[tuple[str, str], int] = defaultdict(int)
        self.processes: list[tuple[str, StageProcess]] = []
        self.in_flight = 0
        self.room = IN_FLIGHT * (work.workers + max(stage.batch_size for stage in stages))

    def outcomes(self) -> Iterator[Outcome]:
        """Yield every outcome until nothing is left."""
        while self._refill() or self.in_flight:
            self._start_processes()
            self._hand_out()
            ready = wait([process.connection for _, process in self.processes], self._patience())
            for group, process in list(self.processes):
                if process.connection in ready:
                    yield from self._receive(group, process)
                elif process.seconds_left <= 0:
                    yield from self._lose(group, process, f"took longer than {process.stage.seconds:g} s")

    def end(self) -> None:
        """End all processes."""
        for _, process in self.processes:
            process.end(at_once=bool(process.batch) or not process.ready)

    def _refill(self) -> bool:
        """Take further records while there is room; whether any is waiting."""
        if self.in_flight < self.room:
            for record in itertools.islice(self.records, self.room - self.in_flight):
                self._enqueue(record)
        return any(self.queues.values())

    def _enqueue(self, record: ClipRecord) -> None:
        if (stage := record.next_stage) is not None:
            self.queues[stage].append(record)
            self.in_flight += 1

    def _start_processes(self) -> None:
        """Start those of a group once it has work: decoding several, each model one."""
        for group, stages in self.groups.items():
            waiting = sum(len(self.queues[stage.name]) for stage in stages)
            number = sum(1 for other, _ in self.processes if other == group)
            most = self.work.workers if group == DECODING else 1
            for _ in range(min(most, waiting) - number):
                threads = 1 if group == DECODING else max(1, (os.cpu_count() or 1) // (len(self.groups) - 1))
                self.processes.append((group, StageProcess(stages, threads)))

    def _hand_out(self) -> None:
        """Give idle processes work: the latest stage first, so that clips are finished before others are begun."""
        for group, process in self.processes:
            for stage in reversed(self.groups[group]):
                if process.idle and self.queues[stage.name] and not self._is_ahead(stage):
                    process.give(stage, self._batch(stage))

    def _is_ahead(self, stage: EngineStage) -> bool:
        """Whether more records wait behind a stage than should be in memory."""
        names = list(self.queues)
        behind = names[names.index(stage.name) + 1 :][:1]
        return any(len(self.queues[name]) >= self.room for name in behind)

    def _batch(self, stage: EngineStage) -> list[ClipRecord]:
        queue, batch = self.queues[stage.name], list[ClipRecord]()
        while queue and len(batch) < stage.batch_size:
            if (stage.name, queue[0].key) in self.alone:
                return batch or [queue.popleft()]
            batch.append(queue.popleft())
        return batch

    def _patience(self) -> float:
        return max(0.0, min([_TICK, *(process.seconds_left for _, process in self.processes)]))

    def _receive(self, group: str, process: StageProcess) -> Iterator[Outcome]:
        batch = process.batch
        answer = process.receive()
        if answer is None or isinstance(answer, str):
            yield from self._lose(group, process, answer)
        elif isinstance(answer, dict):
            for stage, facts in answer.items():
                self.loaded(stage, facts)
        else:
            for record, outcome in zip(batch, answer, strict=True):
                yield outcome
                self.in_flight -= 1
                if isinstance(outcome, StageResult):
                    self._go_on(record, outcome)

    def _go_on(self, record: ClipRecord, result: StageResult) -> None:
        after = record.after(result)
        for each in clips_of(after) if result.stage == PROBE else [after]:
            self._enqueue(each)

    def _lose(self, group: str, process: StageProcess, reason: str | None) -> Iterator[Outcome]:
        """Replace a process; its records are tried again alone, and given up after the last attempt.

        `reason`: None if it died by itself.
        """
        self.processes.remove((group, process))
        batch, stage = process.batch, process.stage
        ending = process.end(at_once=True)
        if not process.ready:
            raise PerceptionEncoderError(f"a worker of {stage.name} ended while it started: {ending}")
        for record in batch:
            task = (stage.name, record.key)
            self.alone.add(task)
            self.losses[task] += len(batch) == 1
            if self.losses[task] < self.work.tries:
                self.queues[stage.name].appendleft(record)
                continue
            why = reason or f"ended its worker ({ending})"
            yield StageFailure(
                key=record.key, stage=stage.name, source=record.item.name, cause="video",
                reason=f"{why}; attempts: {self.work.tries}",
            )  # fmt: skip
            self.in_flight -= 1
