"""A process that takes records through the stages of one group, and the parent's handle on it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

import torch

from perception_encoder.errors import PerceptionEncoderError, one_line
from perception_encoder.video_data_engine.record import ClipRecord, Outcome
from perception_encoder.video_data_engine.stages import EngineStage, Models

logger = logging.getLogger(__name__)

END_SECONDS = 5.0
"""Seconds for a process to end before it is killed."""


class StageProcess:
    """A process with its models; it has at most one batch at a time.

    Attributes: `connection` (readable when there is an answer), `batch` (the records it is at), `stage` (of these),
    `ready` (its models are loaded).
    """

    def __init__(self, stages: Sequence[EngineStage], threads: int) -> None:
        context = _context()
        self.connection, theirs = context.Pipe()
        self.stages = {stage.name: stage for stage in stages}
        self.batch: list[ClipRecord] = []
        self.stage: EngineStage = stages[0]
        self.ready = False
        self._deadline = float("inf")
        self._process = context.Process(
            target=_serve, args=(theirs, list(stages), threads, dict(os.environ)), daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def idle(self) -> bool:
        """Whether it can take a batch."""
        return self.ready and not self.batch

    @property
    def seconds_left(self) -> float:
        """Until its batch has to be done."""
        return self._deadline - time.monotonic()

    def give(self, stage: EngineStage, batch: Sequence[ClipRecord]) -> None:
        """Hand it records for a stage."""
        self.stage, self.batch = stage, list(batch)
        self._deadline = time.monotonic() + stage.seconds * len(batch)
        with suppress(OSError):  # it has died, which `receive` tells
            self.connection.send((stage.name, self.batch))

    def receive(self) -> dict[str, dict[str, Any]] | list[Outcome] | str | None:
        """Return its answer: first what is stored of its models by stage, then outcomes.

        None if it has died, and a text if something unexpected was raised. Raises the PerceptionEncoderError that it
        ended with.
        """
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            return None
        if isinstance(answer, PerceptionEncoderError):
            raise answer
        if isinstance(answer, dict):
            self.ready = True
        elif not isinstance(answer, str):
            self.batch, self._deadline = [], float("inf")
        return answer

    def end(self, at_once: bool = False) -> str:
        """End the process and return how it ended, in words."""
        self.connection.close()  # the sign to end
        if not at_once:
            self._process.join(END_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
        self._process.join()
        code = self._process.exitcode or 0
        return f"signal {-code}" if code < 0 else f"exit status {code}"


def _context() -> SpawnContext | ForkServerContext:
    """Processes are forked from one that has this module imported, if the system can: they start at once."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _serve(connection: Connection, stages: list[EngineStage], threads: int, environment: dict[str, str]) -> None:
    """Run the process: send what is stored of the models, then answer each batch with outcomes.

    `environment`: the parent's; the process that this one is forked from may have an older one.
    """
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        _answer_batches(connection, stages, threads)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is done, or gone
    except PerceptionEncoderError as error:
        connection.send(error)
    except Exception as error:
        connection.send(PerceptionEncoderError(f"a worker failed: {type(error).__name__}: {one_line(error)}"))


def _answer_batches(connection: Connection, stages: list[EngineStage], threads: int) -> None:
    torch.set_num_threads(threads)
    models: Models = {}
    opened = {stage.name: stage.open(models) for stage in stages}
    connection.send({name: facts for name, (_, facts) in opened.items()})
    while True:
        name, batch = connection.recv()
        try:
            answer: list[Outcome] | str = opened[name][0](batch)
        except PerceptionEncoderError:
            raise
        except Exception as error:  # a model may raise anything; the parent tells which record it raises it for
            logger.info("a worker failed", exc_info=error)
            answer = f"{type(error).__name__}: {one_line(error)}"
        connection.send(answer)
