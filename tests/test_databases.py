"""What a stranger's database defines does not run, and what it holds is limited."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from perception_encoder.files import defines_only, harden
from tests.damage import plant_trigger

pytestmark = pytest.mark.security
STATEMENTS = ("CREATE TABLE a (x TEXT UNIQUE)", "CREATE INDEX a_x ON a (x)", "CREATE TABLE b (x TEXT)")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Path]:
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as connection:
        for statement in STATEMENTS:
            connection.execute(statement)
    yield tmp_path / "a.sqlite"


def test_a_definition_behind_another_of_its_name_is_seen(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        assert defines_only(connection, STATEMENTS) and not defines_only(connection, STATEMENTS[:2])
        assert not defines_only(connection, [*STATEMENTS, "CREATE TABLE c (x)"])
        connection.execute("CREATE TABLE other_1 (x)")
        assert defines_only(connection, STATEMENTS, also="other*") and not defines_only(connection, STATEMENTS)
        connection.execute("CREATE VIEW other_2 AS SELECT * FROM a")
        assert not defines_only(connection, STATEMENTS, also="other*")
        connection.execute("DROP TABLE other_1")
        connection.execute("DROP VIEW other_2")
        assert defines_only(connection, STATEMENTS)
    plant_trigger(database, "a_x", "a", "AFTER INSERT ON a BEGIN INSERT INTO b VALUES (1); END")
    with closing(sqlite3.connect(database)) as connection:
        assert not defines_only(connection, STATEMENTS)


def test_no_trigger_runs_and_no_other_database_is_attached(database: Path) -> None:
    plant_trigger(database, "a_x", "a", "AFTER INSERT ON a BEGIN INSERT INTO b VALUES (1); END")
    for hardened, expected in ((False, 1), (True, 1)):
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            if hardened:
                harden(connection)
                with pytest.raises(sqlite3.OperationalError, match="too many attached databases"):
                    connection.execute("ATTACH ':memory:' AS other")
            try:
                connection.execute("INSERT INTO a VALUES (?)", [f"{hardened}"])
            except sqlite3.OperationalError as error:  # before Python 3.12
                assert hardened and sys.version_info < (3, 12) and "trigger" in str(error)
            assert connection.execute("SELECT count(*) FROM b").fetchone() == (expected,)


def test_a_value_over_the_limit_is_not_read(database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute(f"INSERT INTO b VALUES (zeroblob({(16 << 20) + 1}))")
        connection.execute(f"INSERT INTO b VALUES (zeroblob({15 << 20}))")
        harden(connection)
        with pytest.raises(sqlite3.DataError, match="too big"):
            connection.execute("SELECT x FROM b WHERE rowid = 1").fetchone()
        assert len(connection.execute("SELECT x FROM b WHERE rowid = 2").fetchone()[0]) == 15 << 20
