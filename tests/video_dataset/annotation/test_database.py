"""The database file: made once, synced, whole or not at all, and shared by threads and processes."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from perception_encoder.errors import DataError, OutputError
from perception_encoder.video_dataset.annotation.database import Database


def people(database: Database) -> list[str]:
    with database.reading() as connection:
        return [row["name"] for row in connection.execute("SELECT name FROM people ORDER BY name")]


def add(database: Database, name: str) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO people VALUES (?, 'human')", (name,))


def test_it_is_made_and_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.sqlite"
    database = Database(path)
    add(database, "anna")
    with database.reading() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    assert people(Database(path)) == ["anna"]  # while the first connection is open
    database.close()
    assert people(Database(path)) == ["anna"]


def test_a_transaction_that_fails_changes_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.sqlite")
    with pytest.raises(sqlite3.IntegrityError), database.transaction() as connection:
        connection.execute("INSERT INTO people VALUES ('anna', 'human')")
        connection.execute("INSERT INTO people VALUES ('ben', 'machine')")
    assert people(database) == []


def test_threads_and_connections_take_turns(tmp_path: Path) -> None:
    shared, other = Database(tmp_path / "a.sqlite"), Database(tmp_path / "a.sqlite")
    work = [(database, f"{n}-{m}") for n in range(10) for m, database in enumerate((shared, shared, other))]
    threads = [threading.Thread(target=add, args=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(people(shared)) == 30


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to be read as one " * 20)
    with pytest.raises(DataError, match="is not an annotation project"):
        Database(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other") as other:
        other.execute("CREATE TABLE birds (name TEXT)")
    with pytest.raises(DataError, match="not an annotation project of version 1"):
        Database(tmp_path / "other")
    with pytest.raises(OutputError, match="could not be written"):
        Database(tmp_path / "text" / "a.sqlite")


def test_damage_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    Database(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO tars VALUES (1, 'a.tar', 'test', 'long', 0)")
    connection.close()
    remedy = "restore a copy, or save what is readable: sqlite3 FILE .recover"
    with pytest.raises(DataError, match=rf"a\.sqlite is damaged \(a value of tars\.size\); {remedy}"):
        Database(path)


def test_a_project_that_another_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception_encoder.video_dataset.annotation.database._BUSY_SECONDS", 0.01)
    path = tmp_path / "a.sqlite"
    database, other = Database(path), sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with (
        pytest.raises(OutputError, match=r"a\.sqlite could not be written: database is locked"),
        database.transaction(),
    ):
        pass
    other.execute("ROLLBACK")
    other.close()
    with database.transaction() as connection:
        connection.execute("INSERT INTO people VALUES ('eve', 'human')")
    database.close()
