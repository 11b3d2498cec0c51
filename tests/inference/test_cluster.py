"""What workers of a Ray cluster load and do, and what becomes of the items that end them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from perception_encoder.errors import MediaNotFoundError
from perception_encoder.inference import cluster
from perception_encoder.inference.cluster import WorkerModel, placed, task_size
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.ray_cluster import Work, Worker, WorkLog


def test_a_worker_with_a_gpu_computes_what_torch_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model that the command loaded in int8."""
    loaded: list[ModelSpec] = []

    def load(spec: ModelSpec) -> SimpleNamespace:
        loaded.append(spec)
        return SimpleNamespace(weight_hash="hash")

    monkeypatch.setattr(cluster, "load", load)
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    WorkerModel(ModelSpec("st:NAME", runtime="openvino", precision="int8"), "hash", 0, 8).load("cuda")
    assert loaded == [ModelSpec("st:NAME", device="cuda", runtime="torch")]


class Doubling(Work[int, int]):
    """Doubles numbers, of which 3 ends the worker."""

    def open(self, device: str) -> Callable[[list[int]], list[int]]:
        def double(items: list[int]) -> list[int]:
            if 3 in items:
                raise SystemExit
            return [2 * item for item in items]

        return double

    def lost(self, item: int) -> int:
        return -item


def test_only_the_item_that_ends_workers_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not those before it, which begin again with each worker."""
    log, items, ended = WorkLog(), [1, 2, 3, 4], 0
    remote = SimpleNamespace(begin=SimpleNamespace(remote=log.begin), end=SimpleNamespace(remote=log.end))
    monkeypatch.setattr(Worker, "_begin", lambda worker, *keys: log.begin(keys))
    while True:
        try:
            results = Worker(Doubling(), remote, "cpu").results(items, list("abcd"))
            break
        except SystemExit:
            ended += 1
    assert (results, ended) == ([2, 4, -3, 8], Doubling.together + Doubling.alone)


def test_a_message_counts_once() -> None:
    log = WorkLog()
    log.report({"a": b"1", "b": b"2"})
    log.report({"b": b"of a task that was done again", "c": b"3"})
    assert log.take() == [b"1", b"2", b"3"] and log.take() == []
    log.report({"a": b"again"})
    assert log.take() == []


@pytest.mark.parametrize(("count", "workers", "size"), [(3, 8, 1), (80, 2, 10), (10_000, 2, 64), (0, 1, 1)])
def test_few_items_keep_all_workers_busy(count: int, workers: int, size: int) -> None:
    assert task_size(count, workers, 64) == size


def test_only_missing_files_name_the_machine() -> None:
    error = placed(MediaNotFoundError("a.jpg", "no such file"))
    assert isinstance(error, MediaNotFoundError) and "a worker of the cluster" in error.reason
