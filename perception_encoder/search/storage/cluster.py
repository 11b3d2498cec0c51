"""Read and encode a directory's files on a Ray cluster; only this machine writes the index.

A child process talks to Ray, because Ray ends a process whose cluster is lost, and writes to the terminal.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import IO, Any

import pyarrow as pa

from perception_encoder import errors
from perception_encoder.errors import ClusterError, InputError, MediaNotFoundError, PerceptionEncoderError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load
from perception_encoder.inference.pipeline import map_in_order
from perception_encoder.models.registry import portable_name
from perception_encoder.ray_cluster import WorkCounter, check_cluster, connect_cluster, last_line
from perception_encoder.runtime.runtime import Precision, RuntimeName
from perception_encoder.search.storage.moments import MomentConfig
from perception_encoder.search.storage.reader import File, FileResult, Reader, batches
from perception_encoder.search.storage.store import Store

logger = logging.getLogger(__name__)

Read = Callable[[Store, Encoder, set[str], Sequence[File]], Iterator[list[FileResult]]]

_CONNECT_SECONDS, _END_SECONDS = 120.0, 20.0
_GPU_BATCH = 64
_TASK_BATCHES = 8  # at most: enough for the threads beside a GPU, little work to lose
_TASK_TRIES = 2  # then its files are read one by one, to find the one that crashes workers
_MEMORY = 1 << 30  # bytes of a worker beside its model's weights


@contextmanager
def on_cluster(address: str, trust_remote_code: bool = False) -> Iterator[Read]:
    """Connect to a Ray cluster; yields the `read` of `update_store`.

    `address`: "auto", HOST:PORT, or "local" for a cluster on this machine. Its machines must see the directory, and a
    model file, under the same path. `trust_remote_code`: see `load`. Raises MissingExtraError without Ray, ConfigError
    for a ray:// address, and ClusterError if no cluster answers; the yielded function raises ClusterError if workers
    fail or the cluster is lost.
    """
    check_cluster(address)
    command = [sys.executable, "-P", "-c", f"from {__name__} import run_driver; run_driver()", address]
    stderr = None if logger.isEnabledFor(logging.INFO) else subprocess.DEVNULL
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
    )
    driver = _Driver(address, process, trust_remote_code)
    try:
        driver.connect()
        yield driver.read
    finally:
        with suppress(OSError):
            driver.jobs.close()  # tells the child to end
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        driver.answers.close()


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The inputs of a worker besides the files."""

    source: str
    weight_hash: str
    runtime: RuntimeName
    precision: Precision
    dimensions: int | None
    trusted: bool
    moments: Mapping[str, Any]
    digests: frozenset[str]
    batch_size: int
    memory: int
    """Bytes of memory per worker."""


class _Driver:
    """The parent's side of the child process."""

    def __init__(self, address: str, process: subprocess.Popen[bytes], trusted: bool) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._address, self._process, self._trusted = address, process, trusted
        self.jobs, self.answers = process.stdin, process.stdout

    def connect(self) -> None:
        """Wait until the cluster answers."""
        clock = threading.Timer(_CONNECT_SECONDS, self._process.kill)
        clock.start()
        try:
            self._answer(f"no Ray cluster answers at {self._address}; pe -v shows Ray's messages")
        finally:
            clock.cancel()

    def read(
        self, index: Store, encoder: Encoder, digests: set[str], files: Sequence[File]
    ) -> Iterator[list[FileResult]]:
        """Read files with the workers; see `read_here`."""
        runtime, precision = encoder.runtime.used(encoder.feature().executed)
        job = _Job(
            source=portable_name(encoder.source),  # not the index's, which may be a stranger's
            weight_hash=encoder.weight_hash,
            runtime=runtime,
            precision=precision,
            dimensions=encoder.dimensions,
            trusted=self._trusted,
            moments=index.settings["moments"],
            digests=frozenset(digests),
            batch_size=encoder.batch_size,
            memory=_MEMORY + sum(weights.nbytes for weights in encoder.model.parameters()),
        )
        lost = f"the Ray cluster at {self._address} was lost; rerun the command to resume"
        with suppress(BrokenPipeError):
            pickle.dump((job, list(files)), self.jobs)
            self.jobs.flush()
        while (results := self._answer(lost)) is not None:
            yield results

    def _answer(self, lost: str) -> list[FileResult] | None:
        try:
            answer = pickle.load(self.answers)
        except (EOFError, pickle.UnpicklingError):
            raise ClusterError(lost) from None
        if isinstance(answer, PerceptionEncoderError):
            raise answer
        return answer


def run_driver() -> None:
    """Run the child process: jobs on stdin; on stdout lists of results, None after a job's last, or an error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # for anything that prints
    jobs: queue.SimpleQueue[tuple[_Job, list[File]]] = queue.SimpleQueue()
    threading.Thread(target=_take_jobs, args=(sys.stdin.buffer, jobs), daemon=True).start()

    def give(answer: bytes) -> None:
        answers.write(answer)
        answers.flush()

    try:
        connect_cluster(sys.argv[1])
        give(pickle.dumps([]))
        while True:
            for results in _stream(*jobs.get()):
                give(results)
            give(pickle.dumps(None))
    except PerceptionEncoderError as error:
        give(pickle.dumps(error))
    except BrokenPipeError:
        pass  # the parent is gone
    except Exception as error:
        logger.warning("the cluster failed", exc_info=error)  # shown by pe -v
        give(pickle.dumps(_failure(error)))


def _take_jobs(stream: IO[bytes], jobs: queue.SimpleQueue[tuple[_Job, list[File]]]) -> None:
    with suppress(EOFError, pickle.UnpicklingError):
        while True:
            jobs.put(pickle.load(stream))
    os.kill(os.getpid(), signal.SIGTERM)  # the parent is done, or gone; on this Ray leaves its cluster in good order


def _failure(error: Exception) -> ClusterError:
    """Return why workers failed; Ray passes on only the text of a traceback."""
    ours = re.search(rf"^{errors.__name__}\.\w+: (.+)", str(error), re.MULTILINE)
    other = re.search(r"^[\w.]+Error: .+", str(error), re.MULTILINE)  # the first that was raised
    reason = ours[1] if ours else other[0] if other else f"{type(error).__name__}: {last_line(error)}"
    return ClusterError(f"a worker of the cluster failed: {reason}; rerun the command to resume")


def _stream(job: _Job, files: list[File]) -> Iterator[bytes]:
    """Yield pickled lists of results."""
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = None  # a task's results stay together: all arrive, or are read again
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    workers = gpus or max(1, int(resources.get("CPU", 0)))
    cut = list(batches(files, _GPU_BATCH if gpus else job.batch_size))
    size = max(1, min(_TASK_BATCHES, len(cut) // (4 * workers)))
    tasks = [
        {"number": start, "batches": pickle.dumps(cut[start : start + size])} for start in range(0, len(cut), size)
    ]
    counter: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(WorkCounter)
    attempts = counter.remote()  # ends with its last reference
    rows = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        _Worker,
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=min(workers, len(tasks))),
        fn_constructor_args=(job, "cuda" if gpus else "cpu", attempts),
        num_cpus=None if gpus else 1,
        num_gpus=1 if gpus else None,
        memory=job.memory,
    )
    for row in rows.iter_rows():
        yield row["results"]


class _Worker:
    """A worker process of the cluster with its own model: on one core, or on a GPU with decoding threads.

    Ray retries a dead worker's task for ever, so a retried task is read file by file, and a file that crashes workers
    is reported like any other bad file.
    """

    def __init__(self, job: _Job, device: str, attempts: Any) -> None:
        import torch

        torch.set_num_threads(1)
        on_gpu = device != "cpu"
        self._encoder = load(
            job.source,
            device,
            runtime="torch" if on_gpu else job.runtime,
            precision="auto" if on_gpu and job.precision == "int8" else job.precision,
            dimensions=job.dimensions,
            trust_remote_code=job.trusted,
        )
        self._job, self._attempts = job, attempts
        if self._encoder.weight_hash != job.weight_hash:
            raise ClusterError(
                f"{job.source} has different weights on {socket.gethostname()}; "
                "give both machines the same file, or the same version of perception-encoder"
            )

    def __call__(self, tasks: pa.Table) -> pa.Table:
        """Read a task (a row of `batches`, lists of files) into rows of `results`, each a list of results."""
        (task,) = tasks.to_pylist()
        files = [file for batch in pickle.loads(task["batches"]) for file in batch]
        reader = Reader(self._encoder, MomentConfig(**self._job.moments), self._job.digests)
        if self._begin(task["number"]) <= _TASK_TRIES:
            cut = batches(files, self._encoder.batch_size)  # of fewer, if images wait at their full size
            read = map_in_order(reader.read, cut, self._encoder.runtime.workers, self._encoder.runtime)
        else:
            read = (self._read_alone(reader, file) for file in files)
        return pa.table({"results": [pickle.dumps([_placed(result) for result in results]) for results in read]})

    def _read_alone(self, reader: Reader, file: File) -> list[FileResult]:
        if self._begin(file.path) > 1:
            return [FileResult(file, error=InputError(file.item.name, "ended the worker of the cluster that read it"))]
        results = reader.read([file])
        self._attempts.end.remote(file.path)
        return results

    def _begin(self, what: int | str) -> int:
        import ray

        return ray.get(self._attempts.begin.remote(what))


def _placed(result: FileResult) -> FileResult:
    """Return a worker's result with the machine's name in the errors of missing files."""
    if isinstance(result.error, MediaNotFoundError):
        where = f"on {socket.gethostname()}, a worker of the cluster, which must see the directory under the same path"
        return replace(result, error=MediaNotFoundError(result.error.source, f"{result.error.reason} {where}"))
    return result
