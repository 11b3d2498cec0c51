"""Processes with the package already imported: a server forks them, as to start Python and torch anew takes seconds.

pytest's own process cannot be forked: it has threads. The server, multiprocessing's, only imports. What torchrun tells
its processes stands here in a line; real torchrun is used where a test is about it.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.conftest import ROOT
from tests.rounding import round_as_amx

IMPORTED = (
    "pytest",
    "peft",
    "timm.optim",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.utils.tensorboard.writer",
    "transformers.models.llama.modeling_llama",
    "perception_encoder.cli.main",
    "perception_encoder.cli.train",
    "perception_encoder.dense_training.run",
    "perception_encoder.language_alignment.run",
    "perception_encoder.pretraining.run",
    "perception_encoder.spatial_alignment.run",
    "tests.pretraining.sharing",
    "tests.store_users",
    "tests.training.ranks",
)


@dataclass(frozen=True)
class Processes:
    """What was started together."""

    processes: list[BaseProcess]
    log: Path

    def running(self) -> bool:
        return any(process.exitcode is None for process in self.processes)

    def kill(self) -> None:
        """End them at once; AssertionError where one had ended before."""
        for process in self.processes:
            process.kill()  # all of them first, for a rank that misses another ends by itself
        for process in self.processes:
            process.join()
            assert process.exitcode == -signal.SIGKILL, self.output()

    def statuses(self, seconds: float = 250) -> list[int]:
        """Wait for all to end; how they did."""
        for process in self.processes:
            process.join(seconds)
        for process in self.processes:
            if process.exitcode is None:
                process.kill()
                raise TimeoutError(self.output())
        return [process.exitcode or 0 for process in self.processes]

    def output(self) -> str:
        """The end of what they wrote to stdout and stderr."""
        return self.log.read_text()[-3000:] if self.log.exists() else ""


def start(
    work: Callable[..., object],
    *arguments: object,
    log: Path,
    ranks: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Processes:
    """Let a function of a module work in a process of its own, or as all of so many ranks."""
    variables = dict(environment or {})
    everyone = [variables]
    if ranks is not None:
        count, port = str(ranks), str(_free_port())
        shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        everyone = [{**variables, **shared, "RANK": str(n), "LOCAL_RANK": str(n)} for n in range(ranks)]
    context = server()
    made = [context.Process(target=_begin, args=(work, arguments, item, log)) for item in everyone]
    for example in made:
        example.start()
    return Processes(made, log)


def run(work: Callable[..., object], *arguments: object, **options: Any) -> None:
    """`start`, and wait; all must end well."""
    processes = start(work, *arguments, **options)
    assert not any(processes.statuses()), processes.output()


def pe(*arguments: str) -> None:
    """The `pe` command."""
    from perception_encoder.cli.main import main

    main(list(arguments))


@cache
def server() -> ForkServerContext:
    assert [name for name in IMPORTED if find_spec(name) is None] == []  # the server passes over what it cannot import
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    with patch.dict(os.environ, {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}):
        multiprocessing.forkserver.ensure_running()
    return context


def _begin(
    work: Callable[..., object], arguments: tuple[object, ...], environment: Mapping[str, str], log: Path
) -> None:
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    round_as_amx()
    work(*arguments)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
