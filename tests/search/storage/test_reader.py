"""Files become rows: vectors, dates, thumbnails and moments, in bounded memory."""

from __future__ import annotations

import io
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.video import SampledFrame, sample_frames
from perception_encoder.search.storage.update import update_store, writable_store
from tests.clips import clip
from tests.search.indexes import counts, rows_by_path

Draw = Callable[[int], Image.Image]


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


def test_frames_of_a_video_do_not_pile_up(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of a batch: a full-size frame of 4K takes 25 MB."""
    folder, frames, alive = tmp_path / "videos", list[weakref.ref](), list[int]()
    folder.mkdir()
    (folder / "clip.mp4").write_bytes(clip(60))
    embed = Encoder.embed_pixels

    def sampled(*arguments: object) -> Iterator[SampledFrame]:
        for frame in sample_frames(*arguments):
            frames.append(weakref.ref(frame.image))
            yield frame

    def count(self: Encoder, *arguments: object) -> object:
        alive.append(sum(frame() is not None for frame in frames))
        return embed(self, *arguments)

    monkeypatch.setattr("perception_encoder.search.storage.reader.sample_frames", sampled)
    monkeypatch.setattr(Encoder, "embed_pixels", count)
    monkeypatch.setattr(Encoder, "batch_size", 16)
    with writable_store(folder, str(checkpoint), every=0.1) as (index, encoder):
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
