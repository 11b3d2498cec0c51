"""Encode on a Ray cluster, whose workers load the model of this machine's encoder."""

from __future__ import annotations

import math
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, Self, TypeVar

from perception_encoder.errors import ClusterError, InputError, MediaNotFoundError
from perception_encoder.formats.listing import Item
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.feature import Feature
from perception_encoder.inference.load import load
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.inference.pipeline import EncodingResult, Failure, batched, item_request
from perception_encoder.models.registry import portable_name
from perception_encoder.ray_cluster import Work, count_workers, do_tasks, on_cluster

T = TypeVar("T")
R = TypeVar("R")
Encode = Callable[[Encoder, Iterable[Item], Feature], Iterator[list[EncodingResult[Item]]]]

GPU_BATCH = 64
TASK_BATCHES = 8
"""Maximum number of batches in a task: enough for the threads beside a GPU, little work to lose."""
_TASK_BYTES = 32 << 20  # of a task's vectors
_PASS = 400  # tasks of each worker, listed ahead; then all load their models anew
_MEMORY = 1 << 30  # bytes of a worker beside its model's weights


@dataclass(frozen=True)
class WorkerModel:
    """A model that each worker of a cluster loads."""

    spec: ModelSpec
    weight_hash: str
    memory: int
    """Bytes that a worker needs."""
    cpu_batch: int
    """Number of images that a worker without a GPU computes together."""

    @classmethod
    def of(cls, encoder: Encoder, feature: Feature) -> Self:
        """Describe an encoder's model as it is used for `feature`."""
        runtime, precision = encoder.runtime.used(feature.executed)
        spec = ModelSpec(
            portable_name(encoder.source),
            runtime=runtime,
            precision=precision,
            dimensions=encoder.dimensions,
            decoding=encoder.decoding,
            trust_remote_code=encoder.trust_remote_code,
        )
        weights = sum(weights.nbytes for weights in encoder.model.parameters())
        return cls(spec, encoder.weight_hash, _MEMORY + weights, encoder.batch_size)

    def batch_size(self, device: str) -> int:
        """Return the number of images that a worker computes together."""
        return GPU_BATCH if device == "cuda" else self.cpu_batch

    def load(self, device: str) -> Encoder:
        """Load the model in a worker, on one core or, with torch, on a GPU; ClusterError if its weights differ."""
        import torch

        torch.set_num_threads(1)
        spec = replace(self.spec, device=device)
        if device != "cpu":
            spec = replace(spec, runtime="torch", precision="auto" if spec.precision == "int8" else spec.precision)
        encoder = load(spec)
        if encoder.weight_hash != self.weight_hash:
            raise ClusterError(
                f"{spec.name} has different weights on {socket.gethostname()}; "
                "give both machines the same file, or the same version of perception-encoder"
            )
        return encoder


def task_size(count: int, workers: int, maximum: int = TASK_BATCHES) -> int:
    """Return the number of items in a task, so that even few of them keep all workers busy."""
    return max(1, min(maximum, count // (4 * workers)))


def stream_batches(
    stream: Callable[..., Iterator[Any]], work: Work[T, R], cut: Callable[[str], Iterable[list[T]]], memory: int
) -> Iterator[list[R]]:
    """Yield the results of each task, of batches that `cut` makes for a kind of device; `memory`: see `do_tasks`."""
    ((device, workers),) = stream(count_workers)
    batches = list(cut(device))
    size = task_size(len(batches), workers)
    tasks = [list(chain(*batches[start : start + size])) for start in range(0, len(batches), size)]
    yield from map(pickle.loads, stream(do_tasks, work, tasks, memory))


def placed(error: InputError) -> InputError:
    """Return a worker's error with the machine's name, if a file is missing."""
    if not isinstance(error, MediaNotFoundError):
        return error
    where = f"on {socket.gethostname()}, a worker of the cluster, which must see the directory under the same path"
    return MediaNotFoundError(error.source, f"{error.reason} {where}")


def ended_worker(name: str) -> InputError:
    """Return the error of a file that ends the worker that reads it."""
    return InputError(name, "ended the worker of the cluster that read it")


@dataclass(frozen=True)
class _ItemWork(Work[Item, EncodingResult[Item]]):
    model: WorkerModel
    feature: Feature

    def open(self, device: str) -> Callable[[list[Item]], list[EncodingResult[Item]]]:
        encoder = self.model.load(device)

        def encode(items: list[Item]) -> list[EncodingResult[Item]]:
            results = [result for batch in encoder.stream_items(items, self.feature) for result in batch]
            return [Failure(one.key, placed(one.error)) if isinstance(one, Failure) else one for one in results]

        return encode

    def lost(self, item: Item) -> EncodingResult[Item]:
        return Failure(item, ended_worker(item.name))


@contextmanager
def encoding_on_cluster(address: str) -> Iterator[Encode]:
    """Connect to a Ray cluster; yield a function that encodes there as `Encoder.stream_items` does here, in order.

    Its machines must see the files, and a model file, under the same path. Raises what `on_cluster` does.
    """
    with on_cluster(address) as stream:

        def encode(encoder: Encoder, items: Iterable[Item], feature: Feature) -> Iterator[list[EncodingResult[Item]]]:
            work, items = _ItemWork(WorkerModel.of(encoder, feature), feature), iter(items)
            ((device, workers),) = stream(count_workers)
            tokens = math.prod(encoder.describe(feature).get("grid", ())) if feature.pool == "tokens" else 1
            fitting = _TASK_BYTES // (4 * tokens * encoder.width(feature))
            maximum = min(fitting, TASK_BATCHES * work.model.batch_size(device))
            while waiting := list(islice(items, _PASS * workers * max(1, maximum))):
                size = task_size(len(waiting), workers, maximum)
                texts = max(size, encoder.text_batch_size)
                cut = batched(map(item_request, waiting), size, texts, feature.frames)
                tasks = [[request.key for request in batch] for batch in cut]
                yield from map(pickle.loads, stream(do_tasks, work, tasks, work.model.memory, True))

        yield encode
