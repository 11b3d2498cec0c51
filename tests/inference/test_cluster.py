"""Embeddings that a Ray cluster computes are those of this machine, in the same order, whatever dies on the way."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from perception_encoder.errors import ClusterError, MediaNotFoundError
from perception_encoder.inference import cluster, output
from perception_encoder.inference.cluster import WorkerModel, placed, task_size
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.inference.output import embed
from perception_encoder.ray_cluster import Work, Worker, WorkLog, do_tasks, on_cluster
from tests import processes
from tests.clips import clip
from tests.ray_nodes import Nodes, needs_proc, needs_ray, set_environment, two_nodes, wait_for

T = TypeVar("T")
COUNT = 60
lossy = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # Ray's own


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        set_environment(patch)
        with two_nodes() as nodes:
            yield nodes


@pytest.fixture
def media(tmp_path: Path, draw: Callable[[int], Image.Image], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Large images, two clips, a bad file, one image twice, texts, and a file that does not exist."""
    monkeypatch.setattr(Encoder, "batch_size", 2)
    directory, table = tmp_path / "images", tmp_path / "texts.csv"
    directory.mkdir()
    for number in range(COUNT):
        draw(number).resize((2400, 1800)).save(directory / f"{number:02d}.jpg")
    for number in range(2):
        (directory / f"{number}.mp4").write_bytes(clip(60 + number))
    (directory / "bad.jpg").write_bytes(b"no image")
    table.write_text("text\na red mug\nsnow\n")
    (tmp_path / "files.csv").write_text("path\nimages/00.jpg\nmissing.jpg\nimages/00.jpg\n")
    return [str(directory), str(table), str(tmp_path / "files.csv")]


def assert_equal(found: Path, expected: Path, tolerance: float) -> None:
    """The rows are equal and in the same order, and their vectors as near as those of batches of other sizes."""
    tables = [pq.read_table(path) for path in (found, expected)]
    assert tables[0].schema.equals(tables[1].schema)
    assert tables[0].drop_columns("vector").equals(tables[1].drop_columns("vector"))
    vectors = [np.stack(table["vector"].to_numpy()) for table in tables]
    np.testing.assert_allclose(*vectors, rtol=0, atol=tolerance)


class Noting(Work[Path, bytes]):
    """Notes the items that it has begun; the first takes longest."""

    def open(self, device: str) -> Callable[[list[Path]], list[bytes]]:
        def note(items: list[Path]) -> list[bytes]:
            (item,) = items
            item.touch()
            time.sleep(1.0 if item.name == "0" else 0.2)
            return [item.name.encode()]

        return note

    def lost(self, item: Path) -> bytes:
        raise AssertionError(item)


@needs_ray
@lossy
def test_results_come_in_order_while_others_are_computed(nodes: Nodes, tmp_path: Path) -> None:
    tasks, begun = [[tmp_path / str(number)] for number in range(30)], list[int]()
    with on_cluster(nodes.address) as stream:
        for number, results in enumerate(stream(do_tasks, Noting(), tasks, 1 << 20, True)):
            begun.append(len(list(tmp_path.iterdir())))
            assert pickle.loads(results) == [str(number).encode()]
    assert len(begun) == 30 and begun[0] < 20 and begun[14] < 30


@needs_ray
@lossy
def test_a_worker_that_fits_no_machine_is_an_error(nodes: Nodes, tmp_path: Path) -> None:
    with on_cluster(nodes.address) as stream, pytest.raises(ClusterError, match="needs 16777216 MiB"):
        next(stream(do_tasks, Noting(), [[tmp_path / "0"]], 1 << 44))


@needs_ray
@needs_proc
@lossy
def test_a_lost_machine_loses_and_doubles_nothing(
    nodes: Nodes, media: list[str], checkpoint: Path, tmp_path: Path, tolerance: float
) -> None:
    local, out = tmp_path / "local.parquet", tmp_path / "out.parquet"
    expected = embed(media, local, model=checkpoint)
    lost: list[int] = []

    def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
        for done, item in enumerate(items):
            if done == 1:
                assert nodes.workers
                nodes.lose_one()
                lost.append(total)
            yield item

    report = embed(media, out, model=checkpoint, ray=nodes.address, progress=track)
    assert lost == [COUNT + 8]
    assert (report.rows, report.encoded) == (expected.rows, expected.encoded) == (COUNT + 6, COUNT + 8)
    assert_equal(out, local, tolerance)
    assert [error.source for error in report.skipped] == [error.source for error in expected.skipped]
    assert "under the same path" in report.skipped[-1].reason


def embed_a_third(media: list[str], out: Path, model: Path, address: str) -> None:
    """Embed on a cluster, and wait to be killed."""

    def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
        for done, item in enumerate(items):
            if done > COUNT // 3:
                time.sleep(600)
            yield item

    output.PART_SECONDS = 0.0
    Encoder.batch_size = 2  # type: ignore[method-assign, assignment]
    embed(media, out, model=model, ray=address, progress=track)


@needs_ray
@needs_proc
@lossy
def test_a_killed_driver_is_run_again(
    nodes: Nodes, media: list[str], checkpoint: Path, tmp_path: Path, tolerance: float, run_pe: Callable
) -> None:
    local, out = tmp_path / "local.parquet", tmp_path / "out.parquet"
    embed(media, local, model=checkpoint)
    driver = processes.start(embed_a_third, media, out, checkpoint, nodes.address, log=tmp_path / "log")
    records = tmp_path / "out.parquet.parts" / "records.jsonl"
    wait_for(lambda: not driver.running() or (records.exists() and len(records.read_text().splitlines()) >= 2))
    driver.kill()
    stored = len(records.read_text().splitlines())
    assert stored >= 2 and not out.exists()
    run = run_pe("embed", *media, "-o", out, "-m", checkpoint, "--ray", nodes.address)
    assert run.status == 0 and f"{COUNT + 6} embeddings" in run.stdout, run.stderr
    assert_equal(out, local, tolerance)
    assert not records.parent.exists()


@needs_ray
def test_where_no_cluster_answers(run_pe: Callable, media: list[str], tmp_path: Path) -> None:
    run = run_pe("embed", *media, "-o", tmp_path / "out.parquet", "--ray", "127.0.0.1:9")
    assert run.status == 2 and "no Ray cluster answers at 127.0.0.1:9" in run.stderr
    assert not list(tmp_path.glob("out*"))


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
    monkeypatch.setattr("ray.get", lambda answer: answer)
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
