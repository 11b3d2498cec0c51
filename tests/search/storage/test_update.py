"""Updating an index: which files are read, what becomes of them, and what stays."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import shutil
import tarfile
import threading
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from perception_encoder.errors import SearchIndexError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.preprocess.media import HEAD
from perception_encoder.preprocess.video import SampledFrame, sample_frames
from perception_encoder.search.storage.reader import FileReader, find_changes
from perception_encoder.search.storage.store import IndexStore
from perception_encoder.search.storage.update import update_store, writable_store
from tests.clips import clip
from tests.search.indexes import counts, rows_by_path

Draw = Callable[[int], Image.Image]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_an_image_is_read_once_and_its_size_is_that_of_the_file(
    encoder: Encoder, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (1604, 1201), "red").save(path := tmp_path / "large.jpg", exif=exif)
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    encoder = copy.copy(encoder)
    encoder.towers = copy.copy(encoder.towers)
    encoder.towers.runtime = copy.copy(encoder.runtime)
    encoder.runtime.precision = precision  # type: ignore[assignment]
    reads: list[int] = []

    class Counted(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            content = super().read(-1 if size is None else size)
            reads.append(len(content))
            return content

    opened = Path.open

    def open_counted(self: Path, *mode: Any, **options: Any) -> Any:
        return Counted(self) if self.name == "large.jpg" else opened(self, *mode, **options)

    monkeypatch.setattr(Path, "open", open_counted)
    reader = FileReader(encoder, 1.0, set())
    ((row,),) = (result.rows for result in reader.read(find_changes(tmp_path, {}).candidates))
    assert (row.width, row.height) == (1201, 1604)
    assert Image.open(io.BytesIO(row.thumbnail)).size == (192, 256)
    assert row.digest == digest
    assert sum(reads) <= path.stat().st_size + HEAD


def test_changes_of_every_kind(update, folder: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    update()
    before = rows_by_path(folder)
    draw(99).save(folder / "new.jpg")
    draw(98).save(folder / "03.jpg")  # other content
    os.utime(folder / "04.jpg", (1, 1))  # touched
    (folder / "sub").mkdir()
    (folder / "05.jpg").rename(folder / "sub" / "moved.jpg")
    shutil.copy(folder / "06.jpg", folder / "copy.jpg")
    (folder / "07.jpg").unlink()
    (folder / "clip.mp4").rename(folder / "sub" / "clip.mp4")
    report = update()
    assert counts(report) == (2, 3, 1, 17)
    after = rows_by_path(folder)
    assert set(after) == set(before) - {"05.jpg", "07.jpg", "clip.mp4"} | {
        *("new.jpg", "sub/moved.jpg", "copy.jpg", "sub/clip.mp4")
    }
    assert not np.allclose(after["03.jpg"][0].vector, before["03.jpg"][0].vector, atol=1e-3)
    for new, old in (("sub/moved.jpg", "05.jpg"), ("copy.jpg", "06.jpg"), ("04.jpg", "04.jpg")):
        np.testing.assert_array_equal(after[new][0].vector, before[old][0].vector)
        assert after[new][0].thumbnail == before[old][0].thumbnail != b""
    assert len(after["sub/clip.mp4"]) == len(before["clip.mp4"])
    assert {len(rows) for path, rows in after.items() if not path.endswith(".mp4")} == {1}
    (folder / "08.jpg").write_bytes(b"no picture any more")
    assert counts(update()) == (0, 0, 0, 21) and "08.jpg" not in rows_by_path(folder)
    (folder / "bad.jpg").unlink()
    (folder / "08.jpg").unlink()
    monkeypatch.setattr(Encoder, "embed_pixels", None)  # nothing is read again
    assert counts(update()) == (0, 0, 0, 21)


@pytest.mark.parametrize("change", ["moved", "touched", "copied"])
def test_a_file_s_date_follows_its_time_unless_a_camera_s_is_known(
    update, folder: Path, draw: Draw, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.DateTime] = "2020:02:29 10:00:00"
    draw(70).save(folder / "camera.jpg", exif=exif)
    update()
    monkeypatch.setattr(Encoder, "embed_pixels", None)  # nothing is read again
    for name in ("camera.jpg", "04.jpg"):
        after = folder / (name if change == "touched" else f"new {name}")
        if change == "copied":
            shutil.copy(folder / name, after)
        else:
            (folder / name).rename(after)
        os.utime(after, (datetime(2021, 3, 4, 5).timestamp(),) * 2)
    unchanged = {"moved": 20, "touched": 22, "copied": 22}[change]
    assert counts(update()) == (0, 0 if change == "touched" else 2, 0, unchanged)
    dates = {path.removeprefix("new "): rows[0].date for path, rows in rows_by_path(folder).items()}
    assert (dates["camera.jpg"], dates["04.jpg"]) == ("2020-02-29T10:00:00", "2021-03-04T05:00:00")
    assert counts(update()) == (0, 0, 0, 22 + 2 * (change == "copied"))


def test_a_file_of_a_tar_that_leads_out_of_it_is_reported(update, folder: Path, draw: Draw) -> None:
    with tarfile.open(folder / "odd.tar", "w") as tar:
        for name in ("./in.jpg", "../../out.jpg", "/absolute.jpg"):
            draw(71).save(stream := io.BytesIO(), "JPEG")
            member = tarfile.TarInfo(name)
            member.size = stream.tell()
            stream.seek(0)
            tar.addfile(member, stream)
    report = update()
    assert {str(error).rpartition("odd.tar")[2] for error in report.skipped if "odd.tar" in str(error)} == {
        "/../../out.jpg: has a name that leads out of the directory"
    }
    assert {path for path in rows_by_path(folder) if path.startswith("odd.tar")} == {
        "odd.tar/./in.jpg",
        "odd.tar//absolute.jpg",
    }
    IndexStore.open(folder, whole=True)


def test_files_that_change_places_are_lost_in_no_commit(
    update, folder: Path, encoder: Encoder, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    update()
    monkeypatch.setattr("perception_encoder.search.storage.update.COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(Encoder, "batch_size", 1)
    order = [*pictures[1:], pictures[0]]
    for number, path in enumerate(pictures):
        path.rename(folder / f"{number}.moving")
    for number, path in enumerate(order):
        (folder / f"{number}.moving").rename(path)
        os.utime(path, (number, number))
    report = update()
    assert report.added + report.moved == 20 and report.deleted == 0
    rows = rows_by_path(folder)
    assert {path: len(rows[path.name]) for path in pictures} == dict.fromkeys(pictures, 1)
    vectors = np.stack([rows[path.name][0].vector for path in pictures])
    np.testing.assert_allclose(vectors, encoder.encode_images(pictures), atol=2e-2)
    assert counts(update()) == (0, 0, 0, 21)


def test_another_model_or_rate_is_refused_until_rebuilt(folder: Path, checkpoint: Path, update) -> None:
    update()
    with (
        pytest.raises(SearchIndexError, match=r"weight_hash .*pe index --rebuild"),
        writable_store(folder, ModelSpec("builtin")),
    ):
        pass
    with pytest.raises(SearchIndexError, match=r"with model \S+, not timm:other"):  # and no details
        IndexStore.open(folder).check({"model": "timm:other", "weight_hash": "0", "dimension": 7}, "timm:other")
    with pytest.raises(SearchIndexError, match=r"with model \S+, not builtin-spatial"):
        IndexStore.open(folder).check_name("builtin-spatial")
    with pytest.raises(SearchIndexError, match=r"every 1\.0, not 0\.5"):
        update(every=0.5)
    assert counts(update(every=0.5, rebuild=True)) == (21, 0, 0, 0)
    assert counts(update()) == (0, 0, 0, 21)


@pytest.mark.parametrize(("name", "unchanged"), [("sub", 21), ("images", 0)])
def test_what_cannot_be_listed_is_not_forgotten(
    update, folder: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch, name: str, unchanged: int
) -> None:
    (folder / "sub").mkdir()
    draw(70).save(folder / "sub" / "in.jpg")
    update()
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = update()
    assert counts(report) == (0, 0, 0, unchanged)
    assert any("cannot be listed" in str(failure) for failure in report.skipped)
    assert {"sub/in.jpg", "01.jpg"} < set(rows_by_path(folder))


def test_members_behind_a_tar_s_damage_are_not_forgotten(update, folder: Path, draw: Draw) -> None:
    with tarfile.open(folder / "more.tar", "w") as tar:
        for number in range(4):
            draw(50 + number).save(folder / "member.jpg")
            tar.add(folder / "member.jpg", f"{number}.jpg")
        at = tar.getmembers()[2].offset
    (folder / "member.jpg").unlink()
    update()
    whole, before = (folder / "more.tar").read_bytes(), rows_by_path(folder)
    for damaged in (whole[:at], whole[:at] + b"\xff" + whole[at + 1 :], whole[: at + 600], b""):
        (folder / "more.tar").write_bytes(damaged)
        report = update()
        assert report.deleted == 0 and rows_by_path(folder).keys() == before.keys()
        (failure,) = (failure for failure in report.skipped if failure.source == str(folder / "more.tar"))
        assert not damaged or f"at byte {at:,}" in failure.reason
    (folder / "more.tar").write_bytes(whole)
    report = update()
    assert report.deleted == report.added == 0 and rows_by_path(folder).keys() == before.keys()
    with tarfile.open(folder / "more.tar", "w") as tar:
        tar.add(folder / "00.jpg", "0.jpg")
    assert update().deleted == 3


def test_times_that_no_index_or_calendar_holds_and_members_of_one_name(update, folder: Path) -> None:
    times = {"00.jpg": 10_413_792_000 * 10**9, "01.jpg": 0, "02.jpg": -(10**18), "03.jpg": 2**63 - 1, "04.jpg": 2**63}
    with tarfile.open(folder / "twice.tar", "w") as tar:
        tar.add(folder / "06.jpg", "same.jpg")
        tar.add(folder / "07.jpg", "same.jpg")
    try:
        for name, nanoseconds in {**times, "05.jpg": 2**62}.items():
            os.utime(folder / name, ns=(0, nanoseconds))
    except OverflowError:
        pytest.skip("this file system has no such times")
    update()
    rows = rows_by_path(folder)
    assert set(times) <= set(rows)
    if (folder / "00.jpg").stat().st_mtime_ns > 2**63:  # some file systems end earlier
        assert rows["00.jpg"][0].date[:4] == "2262" and rows["00.jpg"][0].modified == 2**63 - 1
    assert rows["01.jpg"][0].date[:4] in ("1969", "1970") and rows["02.jpg"][0].date[:4] == "1938"
    (member,) = rows["twice.tar/same.jpg"]
    np.testing.assert_allclose(member.vector, rows["07.jpg"][0].vector, atol=2e-2)
    assert counts(update()) == (0, 0, 0, 22)


def test_rows_say_what_the_files_hold(update, folder: Path, encoder: Encoder, pictures: list[Path]) -> None:
    report = update()
    assert counts(report) == (21, 0, 0, 0)
    assert [failure.source for failure in report.skipped] == [str(folder / "bad.jpg")]
    rows = rows_by_path(folder)
    assert set(rows) == {path.name for path in pictures} | {"clip.mp4"}
    vectors = np.stack([rows[path.name][0].vector for path in pictures])
    np.testing.assert_allclose(vectors, encoder.encode_images(pictures), atol=2e-2)  # in bfloat16, where that is fast
    (row,) = rows["07.jpg"]
    assert (row.kind, row.width, row.height, row.size) == ("image", 80, 60, pictures[7].stat().st_size)
    assert (row.start, row.stop, row.time, row.length) == (None, None, None, None)
    with Image.open(io.BytesIO(row.thumbnail)) as thumbnail:
        assert thumbnail.size == (80, 60)
    moments = sorted(rows["clip.mp4"], key=lambda moment: moment.start)
    assert moments[0].start == 0 and moments[-1].stop == pytest.approx(2.4)
    assert {moment.kind for moment in moments} == {"video"}
    assert len({row.id for rows in rows.values() for row in rows}) == report.rows


def test_an_image_has_the_date_it_was_taken(update, folder: Path, draw: Draw) -> None:
    exif = Image.Exif()
    exif[0x0112], exif.get_ifd(0x8769)[0x9003] = 6, "2019:07:31 18:05:00"
    draw(5).save(folder / "turned.jpg", exif=exif)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    draw(6).save(folder / "plain.jpg", exif=exif)
    os.utime(folder / "00.jpg", (1_000_000_000, 1_000_000_000))
    update()
    dates = {path: rows[0].date for path, rows in rows_by_path(folder).items()}
    assert dates["plain.jpg"] == "2020-01-02T03:04:05"
    assert dates["turned.jpg"] == "2019-07-31T18:05:00"
    assert dates["00.jpg"][:7] == "2001-09"


@pytest.mark.parametrize("decoding", ["exact", "reduced"])
def test_frames_of_a_video_do_not_pile_up(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoding: str
) -> None:
    """Whatever the size of a batch: a full-size frame of 4K takes 25 MB. Idle cores decode reduced frames ahead."""
    monkeypatch.setattr("perception_encoder.preprocess.video.IDLE_CORES", threading.Semaphore(0))
    folder, frames, alive = tmp_path / "videos", list[weakref.ref](), list[int]()
    folder.mkdir()
    (folder / "clip.mp4").write_bytes(clip(60))
    embed = Encoder.embed_pixels

    def sampled(*arguments: object, **options: object) -> Iterator[SampledFrame]:
        for frame in sample_frames(*arguments, **options):
            frames.append(weakref.ref(frame.image))
            yield frame

    def count(self: Encoder, *arguments: object) -> object:
        alive.append(sum(frame() is not None for frame in frames))
        return embed(self, *arguments)

    monkeypatch.setattr("perception_encoder.search.storage.reader.sample_frames", sampled)
    monkeypatch.setattr(Encoder, "embed_pixels", count)
    monkeypatch.setattr(Encoder, "batch_size", 16)
    with writable_store(folder, ModelSpec(checkpoint, decoding=decoding), every=0.1) as (index, encoder):
        update_store(index, encoder)
    assert len(frames) > 16 and len(alive) == 2 and max(alive) <= 3


def test_a_file_that_vanishes_midway_is_reported(update, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from perception_encoder.search.storage import update as module

    found = module.find_changes

    def then_lose_one(*arguments: object) -> object:
        changes = found(*arguments)
        (folder / "02.jpg").unlink()
        return changes

    monkeypatch.setattr(module, "find_changes", then_lose_one)
    report = update()
    assert {Path(failure.source).name: failure.reason for failure in report.skipped}["02.jpg"] == "no such file"
    assert report.added == 20
