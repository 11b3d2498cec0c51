"""Readers who may not write an index, beside an update and after one that was killed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from perception_encoder.errors import SearchIndexError
from perception_encoder.search.storage.store import STORE
from perception_encoder.search.storage.writer import IndexWriter
from tests import processes
from tests.search.indexes import SETTINGS, make_rows, unit_vectors, wait_for

pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user"
)
NOBODY = 65534
ROWS = 20


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with an index that all may read and only root may write."""
    directory = Path(tempfile.mkdtemp(prefix="pe-tests-"))  # pytest's own are private
    directory.chmod(0o755)
    (directory / "photos").mkdir(mode=0o755)
    write(directory / "photos", "finish")
    yield directory / "photos"
    shutil.rmtree(directory)


def write(folder: Path, until: str) -> None:
    """Add rows to an index, and finish; or wait in or after the commit."""
    with IndexWriter.for_writing(folder):
        index = IndexWriter.open(folder) if IndexWriter.exists(folder) else IndexWriter.create(folder, SETTINGS)
        index.begin()
        index.replace([], make_rows(unit_vectors(ROWS, 0), len(index)))
        if until == "finish":
            return index.finish()
        with index._changing() as (connection, _):
            if until == "commit":
                connection.execute("UPDATE rows SET size = size + 1")
                connection.execute("PRAGMA cache_spill = 1")
            else:
                connection.execute("COMMIT")
            (folder / "ready").touch()
            wait_for(lambda: False, "to be killed")


def read(folder: Path, user: int, log: Path) -> str:
    """What a user's search finds."""
    log.unlink(missing_ok=True)
    processes.run(search, folder, user, log=log)
    return log.read_text()


def search(folder: Path, user: int) -> None:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    try:
        index = IndexWriter.open(folder)
        print(len(index.nearest(unit_vectors(1, 1)[0], 999)), index.unfinished)
    except SearchIndexError as error:
        print(error)


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / STORE).iterdir()} - {"lock", "seal.json", "vectors-1.f32"}


@pytest.mark.parametrize("until", ["commit", "wait"])
def test_somebody_without_permission_to_write_searches_beside_an_update_and_after_its_kill(
    until: str, folder: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    assert read(folder, NOBODY, log) == f"{ROWS} False\n"
    writer = processes.start(write, folder, until, log=tmp_path / "writer")
    wait_for((folder / "ready").exists, "the writer")
    (folder / "ready").unlink()
    assert read(folder, NOBODY, log) == f"{2 * ROWS} True\n"
    writer.kill()
    left = names(folder)
    assert read(folder, NOBODY, log) == f"{2 * ROWS} True\n" and names(folder) == left
    assert read(folder, 0, log) == f"{2 * ROWS} True\n" and names(folder) == {"index.sqlite"}
    assert read(folder, NOBODY, log) == f"{2 * ROWS} True\n" and names(folder) == {"index.sqlite"}
    write(folder, "finish")
    assert read(folder, NOBODY, log) == f"{3 * ROWS} False\n"


def test_what_cannot_be_read_without_permission_to_write_is_said(folder: Path, tmp_path: Path) -> None:
    log, database = tmp_path / "log", folder / STORE / "index.sqlite"
    writer = processes.start(write, folder, "wait", log=tmp_path / "writer")
    wait_for((folder / "ready").exists, "the writer")
    writer.kill()
    shared = database.with_name("index.sqlite-shm")
    shared.rename(folder / "shared")
    stopped = f"{database} was left by a stopped update; somebody who may write it must rerun `pe index`\n"
    assert read(folder, NOBODY, log) == stopped
    with IndexWriter.for_writing(folder):
        assert read(folder, NOBODY, log) == (
            f"{database} is being written, and you may not write it; try again when that has ended\n"
        )
    database.chmod(0o600)
    assert read(folder, NOBODY, log).endswith("; ask its owner for permission to read it\n")
    database.chmod(0o644)
    assert read(folder, 0, log) == f"{2 * ROWS} True\n"
    assert read(folder, NOBODY, log) == f"{2 * ROWS} True\n"
