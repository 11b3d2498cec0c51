"""Conditions in SQL, and the dates that they compare."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import perception_encoder as pe
from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.storage.database import whole_dates
from perception_encoder.search.storage.store import IndexStore
from perception_encoder.search.storage.writer import IndexWriter
from perception_encoder.search_page.library import condition as page_condition
from tests.search.indexes import SETTINGS, make_rows, unit_vectors


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine's time zone, nine hours from UTC."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


BAD = (
    *("kind = 'image'; anything", "kind = 'image' anything", "kind = 'image' AS x", "kind = 'video') OR (1 = 1"),
    *("kind = 'image')", "(kind = 'image'", " ", "colour = 3", "id = 'a'", "rowid = 1", "path = ?"),
    *("path = '\0'", "path = '\udcff'", "1; DROP TABLE rows", "path = readfile('/etc/passwd')"),
    *("path IN (SELECT value FROM settings)", "path IN (SELECT path FROM rows)", "load_extension('evil')"),
    "EXISTS (WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n) SELECT i FROM n)",
    "length(randomblob(1000000000)) > 1",
    "length(printf('%1000000000d', 1)) > 1",
    f"path = '{'x' * (2 << 20)}'",
    "abs(-9223372036854775807 - 1 + 0 * size) > 0",
)


def test_a_condition_is_one_whole_expression_on_documented_columns(
    photos: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pe.open_index(photos, encoder).update()
    for directory, count in ((photos, 20), (photos / "2024's", 8)):
        index = pe.open_index(directory, encoder)
        for condition in ("(kind = 'image')", "path <> ')'", "path <> 'a -- b' AND path <> '/*'", 'kind = "image"'):
            assert len(index.search("a cat", top=50, where=condition)) == count
        for condition in BAD:
            for use in (partial(index.search, "a cat"), index.near_duplicates):
                with pytest.raises(ConfigError, match="the columns are path, kind, date"):
                    use(where=condition)
    found = pe.open_index(photos, encoder).search("a cat", where="lower(path) = 'Ä' OR path GLOB '0[12].*'")
    assert {hit.row.path for hit in found} == {"01.jpg", "02.jpg"}
    for comment in (
        "kind = 'image' -- all ;)",
        "kind <> ';' /* ( */",
        "kind = 'image' --",
        "size --1 > 0",
        "/*",
        "'a' = --",
    ):
        with pytest.raises(ConfigError, match="it has a comment"):
            pe.open_index(photos, encoder).search("a cat", where=comment)
    monkeypatch.setattr("perception_encoder.search.storage.database.SCAN_SECONDS", -1.0)
    monkeypatch.setattr("perception_encoder.search.storage.database.SCAN_STEPS", 1)
    with pytest.raises(ConfigError, match="takes over -1 s"):
        pe.open_index(photos, encoder).search("a cat", where="size > 0")


TAKEN = ("2023-12-31T23:59:59", "2024-06-30T23:59:59", "2024-07-01T00:00:00", "2024-07-01T12:00:00",
         "2024-07-01T23:59:59", "2024-07-02T00:00:00", "2024-08-01T00:00:00", "2025-01-01T00:00:00")  # fmt: skip
YEAR, JULY, DAY = TAKEN[1:7], TAKEN[2:6], TAKEN[2:5]


def without(dates: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(date for date in TAKEN if date not in dates)


@pytest.fixture(scope="module")
def dated_index(tmp_path_factory: pytest.TempPathFactory) -> IndexStore:
    """Images of these times."""
    rows = [replace(row, date=date) for row, date in zip(make_rows(unit_vectors(8, 0)), TAKEN, strict=True)]
    with IndexWriter.for_writing(directory := tmp_path_factory.mktemp("dated")):
        index = IndexWriter.create(directory, SETTINGS)
        index.replace([], rows)
        index.finish()
    return index


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("date = '2024-07-01'", DAY),
        ("date == '2024-07'", JULY),
        ("date IS '2024'", YEAR),
        ("date is not distinct from '2024'", YEAR),
        ("date != '2024-07-01'", without(DAY)),
        ("date <> '2024-07'", without(JULY)),
        ("date IS  NOT '2024'", without(YEAR)),
        ("date is distinct from '2024'", without(YEAR)),
        ("NOT date = '2024-07-01'", without(DAY)),
        ("date < '2024-07-01'", TAKEN[:2]),
        ("date <= '2024-07-01'", TAKEN[:5]),
        ("date > '2024-07-01'", TAKEN[5:]),
        ("date >= '2024-07-01'", TAKEN[2:]),
        ("date<='2024-07'", TAKEN[:6]),
        ("date > '2024'", TAKEN[7:]),
        ("'2024-07-01' = date", DAY),
        ("'2024-07-01' != DATE", without(DAY)),
        ("'2024-07-01' < date", TAKEN[5:]),
        ("'2024-07-01' <= date", TAKEN[2:]),
        ("'2024-07-01' > date", TAKEN[:2]),
        ("'2024-07-01' >= date", TAKEN[:5]),
        ("date BETWEEN '2024-07-01' AND '2024-07-01'", DAY),
        ("date BETWEEN '2023' AND '2024-07-01'", TAKEN[:5]),
        ("date NOT BETWEEN '2024-07-01' AND '2024-07'", without(JULY)),
        ("date IN ('2024-07-01')", DAY),
        ("date in ('2023', '2024-07-01', '2024-07')", (TAKEN[0], *JULY)),
        ("date NOT IN ('2023','2024-07-01')", without((TAKEN[0], *DAY))),
        ("date = '2024-07-01T12'", TAKEN[3:4]),
        ("date = '2024-07-01T12:00:00'", TAKEN[3:4]),
        ("date > '2024-07-01T12:00:00'", TAKEN[4:]),
        ('"date" <= "2024-07-01"', TAKEN[:5]),
        ("rows.date = '2024-07-01' OR [date] = '2023'", (TAKEN[0], *DAY)),
        ("date(date) = '2024-07-01'", DAY),
        ("'2024-07-01' = date(date)", DAY),
        ("date LIKE '2024-07-01%' AND date IS NOT NULL AND path <> 'date = ''x'' y'", DAY),
        ("path <> 'not a date' AND date = '2024-07-01' AND kind <> 'date > 2'", DAY),
    ],
)
def test_a_date_is_the_whole_of_it(condition: str, expected: tuple[str, ...], dated_index: IndexStore) -> None:
    assert tuple(row.date for row in dated_index.rows(condition))[::-1] == expected


def test_the_page_asks_for_dates_as_a_condition_does(dated_index: IndexStore) -> None:
    for since, until, expected in [
        ("2024-07-01", "2024-07-01", DAY),
        ("2024", "2024", YEAR),
        ("", "2024-07", TAKEN[:6]),
    ]:
        rows = dated_index.rows(page_condition(since=since, until=until))
        assert tuple(row.date for row in rows)[::-1] == expected
    with pytest.raises(ConfigError, match="'2024-13' is not a date"):
        dated_index.rows(page_condition(until="2024-13"))


@pytest.mark.parametrize(
    ("condition", "literal"),
    [
        ("date >= '2024-13'", "'2024-13'"),
        ("date >= '2023-02-29'", "'2023-02-29'"),
        ("kind = 'image' AND DATE < 'yesterday'", "'yesterday'"),
        ("date > '31.12.2024'", "'31.12.2024'"),
        ("date > '2024-07-31 18:05'", "'2024-07-31 18:05'"),
        ("date NOT BETWEEN '2024' AND '2024-1'", "'2024-1'"),
        ("'24' <= date", "'24'"),
        ("date NOT IN ('2024', 'last year')", "'last year'"),
        ("date = '' ", "''"),
        ("date <= '2024-07~'", "'2024-07~'"),
    ],
)
def test_other_texts_are_refused(condition: str, literal: str) -> None:
    with pytest.raises(ConfigError, match="is not a date; dates look like '2024'") as error:
        whole_dates(condition)
    assert str(error.value).startswith(literal)


def video(created: str | None, container: str = "mp4") -> bytes:
    """A clip of eight frames whose container tells when it was recorded."""
    stream = io.BytesIO()
    with av.open(stream, "w", container) as output:
        if created is not None:
            output.metadata["creation_time"] = created
        track = output.add_stream("libx264", 8)
        track.width, track.height, track.pix_fmt = 64, 64, "yuv420p"
        for shade in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 30 * shade, np.uint8), format="rgb24")
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    return stream.getvalue()


def test_a_date_is_the_camera_s_in_local_time_else_the_file_s(encoder: Encoder, tmp_path: Path, tokyo: None) -> None:
    contents = {
        "a.mp4": video("2024-07-31T16:05:00.000000Z"),
        "b.mkv": video("2024-07-31T16:05:00.000000Z", "matroska"),
        "unset.mp4": video("1970-01-01T00:00:00.000000Z"),
        "none.mp4": video(None),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (datetime(1965, 3, 2, 10).timestamp(),) * 2)
    Image.new("RGB", (8, 8)).save(tmp_path / "old.png")
    os.utime(tmp_path / "old.png", (datetime(1965, 3, 2, 10).timestamp(),) * 2)
    index = pe.open_index(tmp_path, encoder)
    index.update()
    dates = {hit.file.name: hit.row.date for hit in index.search("a cat", top=50)}
    recorded, changed = "2024-08-01T01:05:00", "1965-03-02T10:00:00"
    unknown = dict.fromkeys(("unset.mp4", "none.mp4", "old.png"), changed)
    assert dates == {"a.mp4": recorded, "b.mkv": recorded, **unknown}
    (tmp_path / "a.mp4").rename(tmp_path / "moved.mp4")
    (tmp_path / "none.mp4").rename(tmp_path / "moved too.mp4")
    report = index.update()
    assert (report.moved, report.unchanged) == (2, 3), "times before 1970 are told apart too"
    dates = {hit.file.name: hit.row.date for hit in index.search("a cat", where="date < '1966' OR date >= '2024-08'")}
    assert dates["moved.mp4"] == recorded and dates["moved too.mp4"] == changed


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_a_moved_or_touched_file_keeps_the_camera_s_date_alone(
    zone: str, encoder: Encoder, tmp_path: Path, tokyo: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, later = datetime(2024, 7, 1, 12).timestamp(), datetime(2024, 9, 9, 12).timestamp()
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2024:07:01 12:00:00"
    for name, shade in (("camera.jpg", 0), ("touched.jpg", 90), ("plain.jpg", 180)):
        Image.new("RGB", (16, 16), (shade, 0, 0)).save(tmp_path / name, exif=b"" if name == "plain.jpg" else exif)
    (tmp_path / "clip.mp4").write_bytes(video("2024-07-01T03:00:00.000000Z"))
    for path in tmp_path.iterdir():
        os.utime(path, (taken, taken))  # as a camera leaves it
    index = pe.open_index(tmp_path, encoder)
    index.update()
    assert {hit.row.date for hit in index.search("a cat") if hit.row} == {"2024-07-01T12:00:00"}
    (tmp_path / "camera.jpg").rename(tmp_path / "moved.jpg")
    for path in tmp_path.glob("*.*"):
        os.utime(path, (later, later))
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    assert index.update().added == 0
    dates = {hit.file.name: hit.row.date for hit in index.search("a cat") if hit.row}
    here = {stamp: datetime.fromtimestamp(stamp).isoformat() for stamp in (taken, later)}
    assert dates == {
        **dict.fromkeys(("moved.jpg", "touched.jpg"), "2024-07-01T12:00:00"),
        "clip.mp4": here[taken],
        "plain.jpg": here[later],
    }


def test_a_change_of_content_and_time_alone_is_noticed(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "image.bmp"
    for shade, moment in ((0, -2e8), (200, -1e8), (100, 5e8)):
        Image.new("RGB", (16, 16), (shade, 0, 0)).save(path)  # always as many bytes
        os.utime(path, (moment, moment))
        assert pe.open_index(tmp_path, encoder).update().added == 1


def test_places_and_cameras(encoder: Encoder, tmp_path: Path) -> None:
    places = {"eiffel.jpg": (48.8584, 2.2945), "louvre.jpg": (48.8606, 2.3376), "sydney.jpg": (-33.8568, 151.2153)}
    for number, (name, (lat, lon)) in enumerate(places.items()):
        gps = {1: "NS"[lat < 0], 2: (abs(lat), 0.0, 0.0), 3: "E", 4: (lon, 0.0, 0.0)}
        exif = Image.Exif()
        exif[271], exif[272] = "Canon", "Canon EOS R6"
        exif.get_ifd(0x8825).update(gps)
        Image.new("RGB", (60, 60), (80 * number, 0, 0)).save(tmp_path / name, exif=exif)
    Image.new("RGB", (60, 60), "white").save(tmp_path / "none.jpg")
    index = pe.open_index(tmp_path, encoder)
    index.update()
    for condition, expected in {
        "near 48.8584,2.2945 1km": {"eiffel.jpg"},
        "NEAR 48.8584, 2.2945 3.2 KM": {"eiffel.jpg", "louvre.jpg"},
        "near 48.8584,2.2945 3.1km": {"eiffel.jpg"},
        "near -33.85,151.21 5km AND camera LIKE '%eos%'": {"sydney.jpg"},
        "NOT near 48.8584,2.2945 5km": {"sydney.jpg", "none.jpg"},
        "lat > 0": {"eiffel.jpg", "louvre.jpg"},
        "lat IS NULL": {"none.jpg"},
        "camera = ''": {"none.jpg"},
        "near +48.8584,+2.2945 .5km": {"eiffel.jpg"},
        "path <> 'near 1,2 3km'": {*places, "none.jpg"},
        'path <> "near 485,2 3km"': {*places, "none.jpg"},
    }.items():
        assert {hit.row.path for hit in index.search("a cat", where=condition) if hit.row} == expected, condition
    for condition in (
        "near 48,2",
        "near 1.2.3,2 3km",
        "near 48,2 3",
        "near 48,2 2 mi",
        "near 48,2 -2km",
        "near 4,2 ..km",
    ):
        with pytest.raises(ConfigError, match=r"48.85,2.35 2km") as error:
            index.search("a cat", where=condition)
        assert "coalesce" not in str(error.value) and condition in str(error.value)
    for condition in ("near 485,2.35 2km", "near 48,235 2km", f"near {'9' * 400},1 2km"):
        with pytest.raises(ConfigError, match="near takes -90 to 90"):
            index.search("a cat", where=condition)
    for function in ("km('x', 'y', 1, 2) < 2", "near('x', 'y', 1, 2) < 2", "_km(lat, lon, 1, 2) < 3"):
        with pytest.raises(ConfigError, match=r"is invalid: .*; the columns are path"):
            index.search("a cat", where=function)
