"""An index in a directory of its own, and one of a folder around the one that is searched."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from perception_encoder.errors import SearchIndexError
from perception_encoder.search.index import open_index
from perception_encoder.search.storage.database import DATABASE
from perception_encoder.search.storage.location import nearest_index
from perception_encoder.search.storage.store import STORE, IndexStore
from perception_encoder.search.storage.writer import IndexWriter
from tests.search.indexes import hits, printed_command


def test_an_index_lies_where_it_is_told_to(run_pe, photos: Path, checkpoint: Path, tmp_path: Path) -> None:
    home = tmp_path / "indexes" / "photos"
    photos.chmod(0o700)
    run = run_pe("index", photos, "--index", home, "--model", checkpoint)
    assert run.status == 0 and "20 added" in run.stdout
    assert not (photos / STORE).exists() and IndexStore.exists(home)
    assert home.stat().st_mode & 0o777 == 0o700
    everything = {str(path) for path in photos.rglob("*.jpg")}
    arguments = ("search", "a cat", "--top", "20", "--json")
    for words in ((photos, "--index", home), ("--index", home)):
        assert hits(run_pe(*arguments, *words)) == everything
    assert len(hits(run_pe(*arguments, photos / "2024's", "--index", home))) == 8
    (photos / "00.jpg").unlink()
    assert "0 added, 0 moved, 1 deleted" in run_pe("index", photos, "--index", home).stdout
    assert hits(run_pe(*arguments, "--index", home)) == everything - {str(photos / "00.jpg")}
    run = run_pe("index", home)
    assert run.status == 2 and f"the index in {home} belongs to {photos}, not to {home}" in run.stderr


def test_an_index_is_of_one_folder(run_pe, photos: Path, checkpoint: Path, tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    other.mkdir()
    assert run_pe("index", photos, "--index", home, "--model", checkpoint).status == 0
    for command in (("index",), ("search", "a cat"), ("serve",)):
        run = run_pe(*command, other, "--index", home)
        assert run.status == 2 and f"the index in {home} belongs to {photos}, not to {other}" in run.stderr
    run = run_pe("index", photos, other, "--index", home)
    assert run.status == 2 and "--index is for one directory" in run.stderr


def test_a_folder_that_cannot_be_written_is_told_of_the_option(
    run_pe, photos: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Path.mkdir
    monkeypatch.setenv("HOME", str(tmp_path))

    def mkdir(self: Path, *arguments, **options) -> None:
        if self.is_relative_to(photos):
            raise OSError(errno.EROFS, "Read-only file system")
        plain(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    run = run_pe("index", photos, "--model", checkpoint)
    message = f"{photos / STORE} could not be written: Read-only file system; store the index elsewhere: pe index"
    assert run.status == 2 and message in run.stderr
    assert run_pe(*printed_command(run.stderr), "--model", checkpoint).status == 0
    assert IndexStore.open(tmp_path / "indexes" / photos.name).root == photos


def damage_row(home: Path) -> None:
    with closing(sqlite3.connect(home / STORE / DATABASE, isolation_level=None)) as connection:
        connection.execute("UPDATE rows SET date = '2000'")


def damage_vectors(home: Path) -> None:
    (home / STORE / "vectors-1.f32").write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_row, damage_vectors])
@pytest.mark.parametrize("elsewhere", [True, False])
def test_the_printed_remedy_gives_the_same_index_back(
    run_pe, photos: Path, checkpoint: Path, tmp_path: Path, damage, elsewhere: bool
) -> None:
    home = tmp_path / "an index's home" if elsewhere else photos
    words = (photos, "--index", home) if elsewhere else (photos,)
    assert run_pe("index", *words, "--model", checkpoint, "--every", "0.5").status == 0
    before = IndexStore.open(home)
    paths = set(before.files())
    damage(home)
    run = run_pe("index", *words)
    assert run.status == 2 and "rebuild it with: pe index" in run.stderr
    assert run_pe(*printed_command(run.stderr)).status == 0
    after = IndexStore.open(home)
    assert after.settings == before.settings and after.root == before.root
    assert set(after.files()) == paths and len(paths) == 20
    assert "0 added" in run_pe("index", *words).stdout


def test_an_unreadable_index_is_rebuilt_as_it_was(run_pe, photos: Path, checkpoint: Path, tmp_path: Path) -> None:
    """The seal names the directory, the model and the rate."""
    home = tmp_path / "home"
    assert run_pe("index", photos, "--index", home, "--model", checkpoint, "--every", "0.5").status == 0
    database, settings = home / STORE / DATABASE, IndexStore.open(home).settings
    database.write_text("{")
    run = run_pe("search", "a cat", "--index", home)
    assert run.status == 2 and printed_command(run.stderr) == ["index", "--rebuild", str(photos), "--index", str(home)]
    for command in (("index", home), ("index", "--rebuild", home)):
        run = run_pe(*command)
        assert run.status == 2 and f"the index in {home} belongs to {photos}, not to {home}" in run.stderr
    assert database.read_text() == "{"
    remedy = printed_command(run_pe("index", photos, "--index", home).stderr)
    for rebuild in (lambda: run_pe(*remedy), lambda: open_index(index=home).update(rebuild=True)):
        rebuild()
        assert IndexStore.open(home).settings == settings and len(IndexStore.open(home)) == 20
        database.write_text("{")


@pytest.mark.parametrize("elsewhere", [True, False])
def test_an_index_that_says_nothing_is_rebuilt_by_the_printed_command(
    run_pe, photos: Path, checkpoint: Path, tmp_path: Path, elsewhere: bool
) -> None:
    home = tmp_path / "home" if elsewhere else photos
    words = (photos, "--index", home) if elsewhere else (photos,)
    assert run_pe("index", *words, "--model", checkpoint).status == 0
    (home / STORE / DATABASE).write_text("{")
    (home / STORE / "seal.json").unlink()
    run = run_pe("index", *words)
    assert run.status == 2 and printed_command(run.stderr) == ["index", "--rebuild", *map(str, words)]
    run = run_pe(*printed_command(run.stderr), "--model", checkpoint)
    assert run.status == 0 and "20 added" in run.stdout and IndexStore.open(home).root == photos


def test_an_index_around_is_of_what_is_searched(run_pe, photos: Path, checkpoint: Path, tmp_path: Path) -> None:
    around = tmp_path / "around"
    (around / "more").mkdir(parents=True)
    (photos / "01.jpg").rename(around / "more" / "01.jpg")
    assert run_pe("index", photos, "--index", around, "--model", checkpoint).status == 0
    run = run_pe("search", "a cat", around / "more", "--model", checkpoint, "--json")
    assert hits(run) == {str(around / "more" / "01.jpg")}


def test_an_index_around_that_may_not_be_read_stops_nothing(
    run_pe, photos: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_pe("index", photos, "--model", checkpoint).status == 0
    below = photos / "2024's"
    assert nearest_index(below) == photos
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: STORE not in str(path) and access(path, mode))
    assert nearest_index(below) is None


def test_the_remedy_of_an_unfinished_index_elsewhere_finishes_it(
    run_pe, photos: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "a home"

    def stop(*_: object) -> None:
        raise SearchIndexError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(IndexWriter, "finish", stop)
        assert run_pe("index", photos, "--index", home, "--model", checkpoint).status == 2
    run = run_pe("search", "a cat", "--index", home)
    assert "is unfinished" in run.stderr
    assert run_pe(*printed_command(run.stderr)).status == 0 and not (photos / STORE).exists()
    assert "unfinished" not in run_pe("search", "a cat", "--index", home).stderr
