"""An index whose files a Ray cluster reads is the one that this machine alone makes, whatever dies on the way."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

from perception_encoder import open_index
from perception_encoder.errors import ClusterError, MissingExtraError
from perception_encoder.formats.listing import Item
from perception_encoder.inference.cluster import WorkerModel
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.search.storage import cluster
from perception_encoder.search.storage.cluster import FileWork, reading_on_cluster
from perception_encoder.search.storage.database import IndexRow
from perception_encoder.search.storage.reader import File, FileResult
from perception_encoder.search.storage.store import STORE, IndexStore
from perception_encoder.search.storage.update import update_store, writable_store
from tests.clips import clip
from tests.models.external import embedders
from tests.ray_nodes import descendants, end, needs_proc, needs_ray, processes, set_environment

T = TypeVar("T")


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        set_environment(patch)
        yield


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a cluster of two cores in another time zone."""
    place = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # a short name: it holds sockets
    port = free_port()
    options = {
        "node-ip-address": "127.0.0.1",
        "port": port,
        "num-cpus": 2,
        "object-store-memory": 100_000_000,
        "temp-dir": place,
        "include-dashboard": False,
        "dashboard-agent-listen-port": free_port(),
        "min-worker-port": 0,
        "max-worker-port": 0,
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--{name}={value}" for name, value in options.items()]
    head = subprocess.Popen(
        command,
        env=os.environ | {"TZ": "Asia/Tokyo", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert head.stdout is not None
    message = ""
    while "Ray runtime started" not in message:
        line = head.stdout.readline()
        assert line, message
        message += line
    yield port
    for pid in [*descendants(head.pid), head.pid]:
        end(pid)
    head.wait()
    head.stdout.close()
    shutil.rmtree(place, ignore_errors=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def folder(pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty images, two clips and a bad file, in batches of two."""
    monkeypatch.setattr(Encoder, "batch_size", 2)
    for number in range(2):
        (pictures[0].parent / f"{number}.mp4").write_bytes(clip(60 + number))
    (pictures[0].parent / "bad.jpg").write_bytes(b"no picture")
    return pictures[0].parent


@pytest.fixture
def expected(folder: Path, checkpoint: Path) -> list[IndexRow]:
    """The rows of an index that this machine makes alone."""
    with writable_store(folder, ModelSpec(checkpoint)) as (index, encoder):
        assert update_store(index, encoder).added == 22
        rows = index.rows(thumbnails=True)
    shutil.rmtree(folder / STORE)
    return rows


@contextmanager
def killing_readers(path: Path) -> Iterator[list[int]]:
    """Kill every worker that opens a file; yields their process numbers."""
    killed: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for pid in processes("ray::MapWorker"):
                with suppress(FileNotFoundError):  # a descriptor was closed while it was looked at
                    if pid not in killed and str(path) in map(os.path.realpath, Path(f"/proc/{pid}/fd").glob("*")):
                        killed.append(pid)
                        end(pid)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield killed
    finally:
        done.set()
        watcher.join()


def assert_same(folder: Path, expected: list[IndexRow], tolerance: float) -> None:
    """The rows are equal, and their vectors as near as rows of batches of other sizes are."""
    found = sorted(IndexStore.open(folder).rows(thumbnails=True), key=lambda row: row.id)
    expected = sorted(expected, key=lambda row: row.id)
    for name in (field.name for field in fields(IndexRow) if field.name != "vector"):
        assert [getattr(row, name) for row in found] == [getattr(row, name) for row in expected], name
    vectors = [np.stack([row.vector for row in rows]) for rows in (found, expected)]
    np.testing.assert_allclose(*vectors, rtol=0, atol=tolerance)


@needs_ray
@needs_proc
def test_killed_workers_lose_and_double_nothing(
    port: int,
    folder: Path,
    checkpoint: Path,
    expected: list[IndexRow],
    draw: Callable[[int], Image.Image],
    tolerance: float,
) -> None:
    deadly = folder / "deadly.jpg"
    with deadly.open("wb") as file:
        file.truncate(1 << 33)  # so that it takes a while to be read
    with (
        reading_on_cluster(f"127.0.0.1:{port}") as read,
        writable_store(folder, ModelSpec(checkpoint)) as (index, encoder),
    ):
        with killing_readers(deadly) as killed:
            report = update_store(index, encoder, read=read)
        assert (len(killed), report.added, len(index)) == (3, 22, len(expected))
        reasons = {Path(failure.source).name: failure.reason for failure in report.skipped}
        assert reasons.keys() == {"bad.jpg", "deadly.jpg"} and "ended the worker" in reasons["deadly.jpg"]
        assert_same(folder, expected, tolerance)

        deadly.unlink()
        (folder / "00.jpg").rename(folder / "moved.jpg")
        draw(99).save(folder / "01.jpg")
        draw(98).save(folder / "gone.jpg")

        def lose_one(index: IndexStore, *others: object) -> object:
            (folder / "gone.jpg").unlink(missing_ok=True)
            return read(index, *others)

        report = update_store(index, encoder, read=lose_one)

        draw(97).save(folder / "new.jpg")
        encoder.towers.weight_hash = "that of another"
        with pytest.raises(ClusterError, match="has different weights"):
            update_store(index, encoder, read=read)
        assert len(index) == report.rows
    assert (report.added, report.moved, report.deleted, report.unchanged) == (1, 1, 0, 20)
    reasons = {Path(failure.source).name: failure.reason for failure in report.skipped}
    assert reasons.keys() == {"bad.jpg", "gone.jpg"}
    assert socket.gethostname() in reasons["gone.jpg"] and "under the same path" in reasons["gone.jpg"]
    row = next(row for row in expected if row.path == "00.jpg")
    (moved,) = IndexStore.open(folder).rows("path = 'moved.jpg'")
    assert moved.date == row.date
    np.testing.assert_allclose(moved.vector, row.vector, rtol=0, atol=tolerance)


@needs_ray
@needs_proc
def test_the_command_has_the_cluster_read_the_files(
    port: int, folder: Path, checkpoint: Path, expected: list[IndexRow], tolerance: float
) -> None:
    code = (  # of a machine that cannot read a file itself
        "from perception_encoder.cli.main import main; from perception_encoder.inference.encoder import Encoder; "
        "from perception_encoder.search.storage import update; Encoder.batch_size, update.Reader = 2, None; main()"
    )
    arguments = ["index", folder, "--model", checkpoint, "--ray", f"127.0.0.1:{port}"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and "22 added, 0 moved, 0 deleted, 0 unchanged" in done.stdout
    assert len(done.stderr.splitlines()) == 2 and "bad.jpg: " in done.stderr and "1 of 23" in done.stderr
    assert_same(folder, expected, tolerance)


def listening(pid: int) -> set[str]:
    """Addresses, in hexadecimal as the system writes them, that a process listens on for TCP."""
    found: set[str] = set()
    with suppress(OSError):  # it ended meanwhile
        sockets = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, *_, inode = line.split()[:10]
                if state == "0A" and f"socket:[{inode}]" in sockets:
                    found.add(local.partition(":")[0])
    return found


@needs_ray
@needs_proc
def test_a_lost_local_cluster_is_an_error_and_what_was_committed_stays(
    folder: Path, checkpoint: Path, expected: list[IndexRow], monkeypatch: pytest.MonkeyPatch, tolerance: float
) -> None:
    """And it listens on loopback alone."""
    monkeypatch.setattr("perception_encoder.search.storage.update.COMMIT_SECONDS", 0.0)
    addresses: dict[str, set[str]] = {}
    others = set(descendants(os.getpid()))  # another cluster of these tests

    def track(results: Iterable[T], description: str, total: int) -> Iterator[T]:
        for result in results:
            yield result
            for pid in set(descendants(os.getpid())) - others:
                with suppress(OSError):
                    addresses[Path(f"/proc/{pid}/cmdline").read_text()[:200]] = listening(pid)
            for pid in {*processes("gcs_server"), *processes("raylet/raylet")} - others:
                end(pid)

    slow = [folder / name for name in ("10a.jpg", "10b.jpg")]  # in the middle, one for each worker
    for path in slow:
        with path.open("wb") as file:
            file.truncate(1 << 34)
    with writable_store(folder, ModelSpec(checkpoint)) as (index, encoder):
        with pytest.raises(ClusterError, match="was lost; rerun the command"), reading_on_cluster("local") as read:
            update_store(index, encoder, track, read)
        for path in slow:
            path.unlink()
        assert 0 < len(index) < len(expected)
        update_store(index, encoder)
    assert_same(folder, expected, tolerance)
    assert any("raylet" in command and found for command, found in addresses.items())
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    outside = {command: found - loopback for command, found in addresses.items()}
    assert not any(outside.values()), outside


@needs_ray
@pytest.mark.security
def test_workers_run_a_models_own_code_only_if_it_is_trusted(
    pictures: list[Path], tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, mark, address = tmp_path / "model", tmp_path / "mark", f"127.0.0.1:{port}"
    embedders.save_two_towers("CLIP", model)
    embedders.add_own_code("hf", model, mark)
    index = open_index(pictures[0].parent, f"hf:{model}", trust_remote_code=True)
    assert index.update(ray=address).added == len(pictures)
    assert len(index.search(str(pictures[0]), top=2)) == 2
    with writable_store(pictures[0].parent, ModelSpec(f"hf:{model}", trust_remote_code=True)) as (store, encoder):
        mark.unlink()
        encoder.trust_remote_code = False
        Image.new("RGB", (40, 40), "red").save(pictures[0].with_name("new.jpg"))
        with pytest.raises(ClusterError, match="add --trust-remote-code"), reading_on_cluster(address) as read:
            update_store(store, encoder, read=read)
    assert not mark.exists()


def test_a_worker_reads_a_task_in_batches_of_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model whose images wait at their full size."""
    files = [File(path=f"{n}.jpg", item=Item(f"{n}.jpg", Path(f"{n}.jpg")), size=1, modified=1) for n in range(20)]
    read: list[int] = []

    def read_batch(files: list[File]) -> list[FileResult]:
        read.append(len(files))
        return [FileResult(file) for file in files]

    encoder = SimpleNamespace(batch_size=8, runtime=SimpleNamespace(workers=1))
    monkeypatch.setattr(WorkerModel, "load", lambda model, device: encoder)
    monkeypatch.setattr(cluster, "FileReader", lambda *_: SimpleNamespace(read=read_batch))
    work = FileWork(WorkerModel(ModelSpec("st:NAME"), "hash", 0, 8), 1.0, frozenset())
    assert [result.file for result in work.open("cuda")(files)] == files
    assert read == [8, 8, 4]


@needs_ray
@pytest.mark.parametrize(
    ("address", "message"),
    [("127.0.0.1:PORT", "refused"), ("ray://127.0.0.1:PORT", "is a client address"), ("rubbish", "Invalid")],
)
def test_where_no_cluster_answers(run_pe, folder: Path, address: str, message: str) -> None:
    began = time.monotonic()
    run = run_pe("index", folder, "--ray", address.replace("PORT", str(free_port())))
    assert run.status == 2 and message in run.stderr
    assert len(run.stderr.splitlines()) == 1 and time.monotonic() - began < 30
    assert not (folder / STORE).exists()


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="cluster"), reading_on_cluster("auto"):
        pass
