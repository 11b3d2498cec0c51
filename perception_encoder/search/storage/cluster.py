"""Read and encode a directory's files on a Ray cluster; only this machine writes the index."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from perception_encoder.errors import ClusterError, InputError, MediaNotFoundError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.inference.pipeline import map_in_order
from perception_encoder.models.registry import portable_name
from perception_encoder.ray_cluster import count_work, on_cluster
from perception_encoder.search.storage.reader import File, FileResult, Reader, batches
from perception_encoder.search.storage.store import Store

Read = Callable[[Store, Encoder, set[str], Sequence[File]], Iterator[list[FileResult]]]

_GPU_BATCH = 64
_TASK_BATCHES = 8  # at most: enough for the threads beside a GPU, little work to lose
_TASK_TRIES = 2  # then its files are read one by one, to find the one that crashes workers
_MEMORY = 1 << 30  # bytes of a worker beside its model's weights


@contextmanager
def reading_on_cluster(address: str) -> Iterator[Read]:
    """Connect to a Ray cluster; yields the `read` of `update_store`.

    Its machines must see the directory, and a model file, under the same path. Raises what `on_cluster` does.
    """
    with on_cluster(address) as stream:

        def read(
            index: Store, encoder: Encoder, digests: set[str], files: Sequence[File]
        ) -> Iterator[list[FileResult]]:
            runtime, precision = encoder.runtime.used(encoder.feature().executed)
            spec = ModelSpec(
                portable_name(encoder.source),  # not the index's, which may be a stranger's
                runtime=runtime,
                precision=precision,
                dimensions=encoder.dimensions,
                decoding=encoder.decoding,
                trust_remote_code=encoder.trust_remote_code,
            )
            job = _Job(spec, encoder.weight_hash, index.settings["every"], frozenset(digests))
            memory = _MEMORY + sum(weights.nbytes for weights in encoder.model.parameters())
            yield from map(pickle.loads, stream(_stream, job, list(files), encoder.batch_size, memory))

        yield read


@dataclass(frozen=True)
class _Job:
    """The inputs of a worker besides the files."""

    spec: ModelSpec
    weight_hash: str
    every: float
    digests: frozenset[str]


def _stream(job: _Job, files: list[File], batch_size: int, memory: int) -> Iterator[bytes]:
    """Yield pickled lists of results; `memory`: bytes of a worker."""
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.target_max_block_size = None  # a task's results stay together: all arrive, or are read again
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    workers = gpus or max(1, int(resources.get("CPU", 0)))
    cut = list(batches(files, _GPU_BATCH if gpus else batch_size))
    size = max(1, min(_TASK_BATCHES, len(cut) // (4 * workers)))
    tasks = [
        {"number": start, "batches": pickle.dumps(cut[start : start + size])} for start in range(0, len(cut), size)
    ]
    rows = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        _Worker,
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=min(workers, len(tasks))),
        fn_constructor_args=(job, "cuda" if gpus else "cpu", count_work()),
        num_cpus=None if gpus else 1,
        num_gpus=1 if gpus else None,
        memory=memory,
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
        spec = replace(job.spec, device=device)
        if device != "cpu":
            spec = replace(spec, runtime="torch", precision="auto" if spec.precision == "int8" else spec.precision)
        self._encoder = load(spec)
        self._job, self._attempts = job, attempts
        if self._encoder.weight_hash != job.weight_hash:
            raise ClusterError(
                f"{spec.name} has different weights on {socket.gethostname()}; "
                "give both machines the same file, or the same version of perception-encoder"
            )

    def __call__(self, tasks: pa.Table) -> pa.Table:
        """Read a task (a row of `batches`, lists of files) into rows of `results`, each a list of results."""
        (task,) = tasks.to_pylist()
        files = [file for batch in pickle.loads(task["batches"]) for file in batch]
        reader = Reader(self._encoder, self._job.every, self._job.digests)
        if self._begin(task["number"]) <= _TASK_TRIES:
            cut = batches(files, self._encoder.batch_size)  # of fewer, if images wait at their full size
            read = map_in_order(reader.read, cut, self._encoder.runtime.workers, self._encoder.runtime)
        else:
            read = (self._read_alone(reader, file) for file in files)
        return pa.table({"results": [pickle.dumps(list(map(_placed, results))) for results in read]})

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
