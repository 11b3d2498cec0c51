"""A damaged or hostile index gives the right hits or an error, never other hits, and runs nothing."""

from __future__ import annotations

import os
import random
import re
import sqlite3
import time
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from perception_encoder.errors import OutputError, SearchIndexError
from perception_encoder.search.storage import seal
from perception_encoder.search.storage.database import DATABASE, Snapshot
from perception_encoder.search.storage.store import EXCLUDED, STORE
from perception_encoder.search.storage.vectors import Vectors, codes_path
from perception_encoder.search.storage.writer import IndexWriter
from tests.damage import at_most, plant_journal, plant_pipe, plant_trigger
from tests.search.indexes import DIMENSION, SETTINGS, forge, make_rows, unit_vectors

Hits = Callable[..., list[tuple[str, float]]]
Update = Callable[[], None]
VECTORS = "vectors-1.f32"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with an index of twenty images and videos."""
    create(tmp_path)
    return tmp_path


def create(folder: Path, rows: int = 20) -> None:
    """Build the index, instead of an earlier one."""
    with IndexWriter.for_writing(folder):
        index = IndexWriter.create(folder, SETTINGS)
        index.begin()
        index.replace([], make_rows(unit_vectors(rows, 0)))
        index.finish()


@pytest.fixture
def update(folder: Path) -> Update:
    """Check everything, as an update does before it reads files."""

    def update() -> None:
        with IndexWriter.for_writing(folder):
            IndexWriter.open(folder, whole=True).finish()

    return update


@pytest.fixture
def hits(folder: Path) -> Hits:
    """The hits of a query, with their scores, as a new process would find them."""
    (query,) = unit_vectors(1, 1)

    def hits(where: str | None = None) -> list[tuple[str, float]]:
        return [(row.path, round(score, 4)) for score, row in IndexWriter.open(folder).nearest(query, 20, where)]

    return hits


def flip(path: Path, at: int, bit: int = 0, times: bool = False) -> Callable[[], None]:
    """Flip a bit of a file, also without a change of its `times`; returns what undoes it."""
    content, status = path.read_bytes(), path.stat()

    def undo() -> None:
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
    if times:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return undo


@pytest.mark.parametrize("name", [DATABASE, VECTORS])
def test_a_flipped_bit_changes_no_hit(name: str, update: Update, folder: Path, hits: Hits) -> None:
    expected, path, chance, named = hits(), folder / STORE / name, random.Random(2504), 0
    for number in range(100):
        undo = flip(path, chance.randrange(path.stat().st_size), number % 8)
        try:
            assert hits() == expected and hits("size > 0") == expected
        except SearchIndexError as error:
            assert "cannot be read" in str(error) and "pe index --rebuild" in str(error) and DATABASE in str(error)
            named += 1
        undo()
    assert hits() == expected and (named == 100 or name == DATABASE)


@pytest.mark.parametrize("name", [DATABASE, VECTORS])
def test_what_nobody_wrote_is_seen_by_those_that_write(name: str, update: Update, folder: Path) -> None:
    """Bits that turn on the disk change no time."""
    path = folder / STORE / name
    at = path.read_bytes().index(b"7.jpgimage") if name == DATABASE else 5000
    flip(path, at, times=True)
    with pytest.raises(SearchIndexError, match=r"(has changed since|missing from index).* pe index --rebuild"):
        update()
    create(folder)
    update()


def a_day_later(monkeypatch: pytest.MonkeyPatch, days: int = 1) -> None:
    now = time.time() + days * 86_401
    monkeypatch.setattr(seal, "time", SimpleNamespace(time=lambda: now))


def test_a_search_checks_everything_once_a_day(
    update: Update, folder: Path, hits: Hits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between, it misses a vector that was damaged behind its back, as docs/search.md says."""
    path, reader = folder / STORE / VECTORS, IndexWriter.open(folder)
    expected = hits()
    undo = flip(path, 4 * DIMENSION * int(expected[0][0].removesuffix(".jpg")) + 3, 6, times=True)
    checked, check = list[str](), Snapshot.checked
    a_day_later(monkeypatch)
    for fail in (hits, reader.refresh):
        with pytest.raises(SearchIndexError, match=r"vector has changed.* pe index --rebuild"):
            fail()
    undo()
    monkeypatch.setattr(Snapshot, "checked", lambda self, which: (checked.append(which), check(self, which))[1])
    assert hits() == expected and checked.count("NOT INDEXED") == 1
    monkeypatch.undo()  # the check was recorded at the real time
    monkeypatch.setattr(Snapshot, "checked", lambda self, which: (checked.append(which), check(self, which))[1])
    assert hits() == expected and reader.refresh() and checked.count("NOT INDEXED") == 1
    a_day_later(monkeypatch, 3)
    with monkeypatch.context() as patch:
        patch.setattr("perception_encoder.search.storage.store.CHECKED_DAILY", 19)
        assert hits() == expected and checked.count("NOT INDEXED") == 1
    assert hits() == expected and checked.count("NOT INDEXED") == 2


def test_a_vector_that_loses_its_hit_is_found_by_every_check(
    update: Update, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search alone reads the rows of its hits only."""
    create(folder, rows=300)
    path, (query,) = folder / STORE / VECTORS, unit_vectors(1, 1)
    first, second = (row.path for _, row in IndexWriter.open(folder).nearest(query, 2))
    content, status = np.fromfile(path, "<f4").reshape(-1, DIMENSION), path.stat()
    content[int(first.removesuffix(".jpg"))] = 0
    content.tofile(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [row.path for _, row in IndexWriter.open(folder).nearest(query, 1)] == [second]
    a_day_later(monkeypatch)
    for check in ({}, {"whole": True}, {"verify": True}):
        with pytest.raises(SearchIndexError, match=r"vector has changed.* pe index --rebuild"):
            IndexWriter.open(folder, **check)


def test_a_check_without_a_cache_to_remember_it_in(
    folder: Path, hits: Hits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(seal, "cache_directory", lambda name: tmp_path / "file" / name)
    a_day_later(monkeypatch)
    checked, check = list[str](), Snapshot.checked
    monkeypatch.setattr(Snapshot, "checked", lambda self, which: (checked.append(which), check(self, which))[1])
    assert hits() == hits() and checked.count("NOT INDEXED") == 1


@pytest.mark.parametrize("content", [b"7.jpg", b"every"])
def test_an_update_sees_damage_to_the_pages_of_indexes_and_to_settings(
    content: bytes, update: Update, folder: Path
) -> None:
    """A listing by such a page lacks rows; a rate of frames is as valid as another."""
    path = folder / STORE / DATABASE
    whole = path.read_bytes()
    if content == b"every":
        flip(path, whole.index(b'"every": 1.0') + 9, 1, times=True)
        assert IndexWriter.open(folder).settings["every"] == 3
    else:
        *_, last = re.finditer(rb"(?<!\d)7\.jpg(?!image)", whole)
        flip(path, last.start(), 3, times=True)
        IndexWriter.open(folder)
    with pytest.raises(SearchIndexError, match=rf"{DATABASE}.* pe index --rebuild {folder}$"):
        update()


def test_only_verify_sees_damage_to_a_thumbnail_that_nobody_looks_at(update: Update, folder: Path) -> None:
    with IndexWriter.for_writing(folder), closing(IndexWriter.open(folder)) as index:
        index.begin()
        index.replace([], [replace(make_rows(unit_vectors(1, 2), 20)[0], thumbnail=b"thumbnail" * 99)])
        index.finish()
    IndexWriter.open(folder, verify=True)
    flip(folder / STORE / DATABASE, (folder / STORE / DATABASE).read_bytes().index(b"thumbnail" * 99) + 50, times=True)
    update()
    with pytest.raises(SearchIndexError, match="a thumbnail has changed"):
        IndexWriter.open(folder, verify=True)


def test_a_damaged_hit_is_an_error_even_if_no_time_changed(update: Update, folder: Path, hits: Hits) -> None:
    flip(folder / STORE / DATABASE, (folder / STORE / DATABASE).read_bytes().index(b"7.jpgimage"), times=True)
    with pytest.raises(SearchIndexError, match=r"vector has changed.* pe index --rebuild"):
        hits()


def test_a_copy_with_other_times_is_sound(update: Update, folder: Path, hits: Hits) -> None:
    expected = hits()
    for path in (folder / STORE).rglob("*"):
        os.utime(path, (1, 1))
    update()
    assert hits() == expected


def test_an_update_without_changes_writes_nothing(update: Update, folder: Path) -> None:
    def files() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder / STORE).rglob("*")}

    before = files()
    IndexWriter.open(folder).rows("size > 0")
    assert {path.name for path in before} == {DATABASE, VECTORS, "seal.json", "lock"}
    update()
    assert files() == before


def test_a_missing_or_cut_file_is_named(update: Update, folder: Path, hits: Hits) -> None:
    expected = hits()
    for path in sorted((folder / STORE).iterdir()):
        content = path.read_bytes()
        for length in (None, 0, len(content) // 2):
            path.unlink() if length is None else path.write_bytes(content[:length])
            if length is None and path.name == DATABASE:
                assert not IndexWriter.exists(folder)
            elif path.name in (DATABASE, VECTORS):
                with pytest.raises(SearchIndexError, match=rf"{path.name}.*\); .* --rebuild"):
                    hits()
            else:
                assert hits() == expected
            path.write_bytes(content)
    assert hits() == expected


def test_an_index_of_an_earlier_version_is_rebuilt(update: Update, folder: Path) -> None:
    (folder / STORE / DATABASE).unlink()
    (folder / STORE / "moments.lance").mkdir()
    (folder / STORE / "settings.json").write_text('{"layout": 2}')
    command = f"rebuild it with: pe index --rebuild {folder}$"
    for fail in (update, lambda: IndexWriter.open(folder)):
        with pytest.raises(SearchIndexError, match=f"made by an earlier version.*{command}"):
            fail()
    create(folder)
    update()
    assert not (folder / STORE / "moments.lance").exists() and not (folder / STORE / "settings.json").exists()


def harm(folder: Path, *statements: str) -> None:
    """Change a database as its owner can."""
    with closing(sqlite3.connect(folder / STORE / DATABASE, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.security
@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE VIEW more AS SELECT * FROM rows", "has other tables"),
        ("CREATE TRIGGER t AFTER INSERT ON rows BEGIN DELETE FROM rows; END", "has other tables"),
        ("CREATE TABLE more (a CHECK (load_extension('evil')))", "has other tables"),
        ("ALTER TABLE rows ADD COLUMN more AS (hex(path))", "has other tables"),
        ("DROP INDEX rows_path", "has other tables"),
        ("UPDATE rows SET width = 'wide'", "has changed since it was written"),
        ("UPDATE rows SET slot = slot + 1000000", "a row has the slot 1000000 of 20"),
        ("UPDATE rows SET slot = -slot - 1", "a row has the slot -1 of 20"),
        ("DELETE FROM rows WHERE path = '7.jpg'", "has 19 rows, not 20"),
        ("DELETE FROM settings", "settings is None"),
        *(
            (f"UPDATE settings SET value = '{value}' WHERE name = 'state'", reason)
            for value, reason in [
                *(("[]", "state is []"), ("{", "Expecting property name"), ("[" * 100_000, "nested too deep")),
                ('{"rows": 1}', "state.identity is missing"),
            ]
        ),
        *(
            (f"UPDATE settings SET value = json_set(value, '$.{name}', json('{value}')) WHERE name = '{table}'", reason)
            for table, name, value, reason in [
                ("state", "slots", "1000000000000", "vectors-1.f32 has less than"),
                ("state", "slots", "-1", "state.slots is -1"),
                ("state", "slots", "true", "state.slots is True"),
                ("state", "generation", '"../../x"', "state.generation is '../../x'"),
                ("settings", "dimension", "0", "dimension is 0"),
                ("settings", "dimension", "100000000", "dimension is 100000000"),
                ("settings", "source", "3", "source is 3"),
                ("settings", "root", "[]", "root is []"),
                ("settings", "every", "-1", "every is -1"),
                ("settings", "every", "[]", "every is []"),
                ("settings", "weight_hash", "null", "weight_hash is None"),
            ]
        ),
    ],
)
def test_a_hostile_database_is_refused_with_the_remedy(
    statement: str, reason: str, update: Update, folder: Path, hits: Hits
) -> None:
    harm(folder, statement)
    for fail in (hits, update):
        with pytest.raises(SearchIndexError, match=rf"{re.escape(reason)}.*rebuild it with: pe index --rebuild"):
            fail()
    create(folder)
    update()


@pytest.mark.security
def test_a_trigger_with_the_name_of_an_index_is_refused(update: Update, folder: Path, hits: Hits) -> None:
    trigger = "AFTER INSERT ON rows BEGIN DELETE FROM settings WHERE name = 'unreadable'; END"
    plant_trigger(folder / STORE / DATABASE, "rows_newest", "rows", trigger)
    for fail in (hits, update):
        with pytest.raises(SearchIndexError, match=r"has other tables.* pe index --rebuild"):
            fail()
    create(folder)
    update()


@pytest.mark.security
@pytest.mark.parametrize(
    ("table", "row"), [("rows SET camera", "path = '7.jpg'"), ("settings SET value", "name = 'settings'")]
)
def test_a_huge_value_is_refused_before_it_is_read(
    table: str, row: str, update: Update, folder: Path, hits: Hits
) -> None:
    harm(folder, f"UPDATE {table} = hex(zeroblob({50 << 20})) WHERE {row}")
    for fail in (hits, update):
        tracemalloc.start()
        with pytest.raises(SearchIndexError, match="string or blob too big"):
            fail()
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
        tracemalloc.stop()


@pytest.mark.security
def test_values_of_another_type_are_refused_whatever_their_checksum(update: Update, folder: Path, hits: Hits) -> None:
    forge(folder, "7.jpg", path=b"7.jpg")
    with pytest.raises(SearchIndexError, match=r"path is \"b'7.jpg'\", not a str"):
        hits()


OUTSIDE = (
    *(
        "/etc/x.jpg",
        "../../x.jpg",
        "..",
        "a/../../x.jpg",
        "a/../x.jpg",
        "a.tar/../x.jpg",
        r"\x2e\x2e/x.jpg",
        r"\x2fx.jpg",
    ),
    *(
        "",
        ".env",
        "evil.html",
        ".pe-index/index.sqlite",
        "x.tar",
        "x",
        ".jpg",
        r"x.jpg\x00.html",
        r"x\x00.jpg",
        "x.jpg/",
    ),
)
INSIDE = (
    "x.jpg",
    "a..b/..c.MP4",
    "a.tar/./x.png",
    "a.tar//x.heic",
    r"a\\b\xff.nef",
    "x.html.jpg",
    "~/x.webm",
    "-x.gif",
)


@pytest.mark.security
@pytest.mark.parametrize("path", OUTSIDE)
def test_a_row_of_another_file_is_refused(path: str, update: Update, folder: Path, hits: Hits) -> None:
    forge(folder, "7.jpg", path=path)
    message = rf"index\.sqlite: the row \d+ has {re.escape(repr(path))}, no image or video in the directory.*--rebuild"
    for fail in (hits, update):
        with pytest.raises(SearchIndexError, match=message):
            fail()


def test_rows_of_files_in_the_directory_and_its_tars_are_read(update: Update, folder: Path, hits: Hits) -> None:
    expected = [score for _, score in hits()]
    for number, path in enumerate(INSIDE):
        forge(folder, f"{number}.jpg", path=path)
    assert {path for path, _ in hits()} > set(INSIDE) and [score for _, score in hits()] == expected
    update()


@pytest.mark.security
@pytest.mark.parametrize("scale", [4e29, np.nan, np.inf, 0.0, 1.1, 0.9])
def test_a_vector_of_another_length_is_refused(scale: float, update: Update, folder: Path, hits: Hits) -> None:
    forge(folder, "7.jpg", unit_vectors(20, 0)[7] * np.float32(scale))
    message = r"the row \d+ of '7\.jpg' has a vector that is not of unit length.*--rebuild"
    for fail in (hits, update):
        with pytest.raises(SearchIndexError, match=message):
            fail()


@pytest.mark.security
@pytest.mark.parametrize("scale", [4e29, np.nan, np.inf, 2.0])
def test_a_vector_of_another_length_is_refused_even_if_it_is_no_hit(scale: float, tmp_path: Path) -> None:
    vectors = unit_vectors(20, 0)
    vectors[7] = -vectors[7] * np.float32(scale)
    vectors.tofile(tmp_path / VECTORS)
    opened = Vectors(tmp_path, DIMENSION, 1, 20, coded=False)
    for allowed in (None, np.arange(5, 9)):
        with pytest.raises(ValueError, match="the vector 7 of 20"):
            opened.nearest(unit_vectors(20, 0)[7], 3, allowed)
    assert list(opened.nearest(unit_vectors(20, 0)[8], 1, np.arange(8, 20))[0]) == [8]


@pytest.mark.parametrize("kind", [np.float16, np.int8])
def test_vectors_that_were_rounded_are_read(kind: type, update: Update, folder: Path, hits: Hits) -> None:
    vector = unit_vectors(20, 0)[7]
    scale = 127 / np.abs(vector).max() if kind is np.int8 else 1.0
    forge(folder, "7.jpg", (np.round(vector * scale) if kind is np.int8 else vector).astype(kind).astype("<f4") / scale)
    update()
    assert len(hits()) == 20


@pytest.mark.security
def test_a_journal_that_names_another_file_is_not_followed(
    update: Update, folder: Path, hits: Hits, tmp_path: Path
) -> None:
    """SQLite would remove the file."""
    (victim := tmp_path / "diary.txt").write_text("dear diary")
    plant_journal(folder / STORE / DATABASE, victim)
    for fail in (hits, update):
        with pytest.raises(OutputError, match="names another file; remove it"):
            fail()
    assert victim.read_text() == "dear diary"
    create(folder)
    assert len(hits()) == 20 and victim.exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
@pytest.mark.security
@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize(
    "name",
    ["lock", DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal", VECTORS, "seal.json", EXCLUDED],
)
def test_a_pipe_in_an_index_stops_nothing(name: str, kind: str, update: Update, folder: Path, hits: Hits) -> None:
    expected, path, errors = hits(), folder / STORE / name, []
    path.unlink(missing_ok=True)
    plant_pipe(path, kind)
    for use in (lambda: hits() == expected, update, lambda: IndexWriter.open(folder).excluded, lambda: create(folder)):
        with at_most(20, path):
            try:
                assert use() is not False
            except (OutputError, SearchIndexError) as error:
                assert re.search(rf"{re.escape(str(path))} .*not a regular file", str(error))
                errors.append(error)
    assert errors


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
@pytest.mark.security
def test_compressed_vectors_that_are_a_pipe_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unit_vectors(20, 0).tofile(tmp_path / VECTORS)
    plant_pipe(codes_path(tmp_path, 1))
    with at_most(20, codes_path(tmp_path, 1)):
        assert Vectors(tmp_path, DIMENSION, 1, 20, coded=True).codes is None
    assert "codes-1.tv is not a regular file; remove it" in caplog.text


@pytest.mark.parametrize("noise", ["null", "[]", "[" * 100_000, '{"index.sqlite": 3}', "\udcff", ""])
def test_noise_in_the_seal_changes_nothing(noise: str, update: Update, folder: Path, hits: Hits) -> None:
    expected = hits()
    (folder / STORE / "seal.json").write_bytes(noise.encode("utf-8", "surrogateescape"))
    assert hits() == expected
    update()
    assert hits() == expected


@pytest.mark.skipif(os.name == "nt", reason="POSIX links")
@pytest.mark.security
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    "name", ["lock", DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal", VECTORS, "seal.json"]
)
def test_a_link_in_an_index_is_neither_followed_nor_written(
    name: str, before: bool, update: Update, folder: Path, hits: Hits, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also one that was there `before` the index."""
    victim = tmp_path_factory.mktemp("victim") / "diary.txt"
    victim.write_text("dear diary")
    for path in (folder / STORE).iterdir():
        if before or path.name == name:
            path.unlink()
    (folder / STORE / name).symlink_to(victim)
    refused = "is a link, which is not followed; remove it"
    if name == DATABASE or (name.startswith((DATABASE, VECTORS)) and not before):
        for use in (hits, update):
            with pytest.raises(OutputError, match=refused):
                use()
    if name == "lock":
        with pytest.raises(OutputError, match=refused):
            create(folder)
    else:
        create(folder)
        assert len(hits()) == 20 and not (folder / STORE / name).is_symlink()
    assert victim.read_text() == "dear diary"
