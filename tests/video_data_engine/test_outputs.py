"""Parquet, shards and the quarantine, made from the journal at any time; clips are copied to the frame."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from perception_encoder.data.shard_index import summarize_shard
from perception_encoder.errors import InputError
from perception_encoder.formats.listing import Item, list_items
from perception_encoder.formats.shards import read_members
from perception_encoder.preprocess.video import read_frames
from perception_encoder.store import Records
from perception_encoder.video_data_engine import outputs
from perception_encoder.video_data_engine.journal import Journal
from perception_encoder.video_data_engine.outputs import extract_clip, write_captions, write_shards
from perception_encoder.video_data_engine.stages import make_stages
from perception_encoder.video_data_engine.videos import list_videos
from tests.clips import clip, number_of, with_display_matrix
from tests.video_data_engine.conftest import ECHOES, QUICK

MODELS = {"summary": {"name": "echo"}}


@pytest.fixture
def journal(add_video, tmp_path: Path) -> Journal:
    """The journal of three finished videos."""
    for number in range(3):
        add_video(f"{number}", title=f"title {number}")
    return finished_journal(tmp_path)


def listed(tmp_path: Path) -> dict[str, Item]:
    return {record.key: record.item for record in list_videos([tmp_path / "videos"])}


def samples(out: Path) -> list[list[str]]:
    """The samples of each shard, by the names of their texts."""
    return [[name for name, _ in read_members(shard, ("txt",))] for shard in sorted((out / "shards").iterdir())]


def finished_journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "out")
    journal.add_model("summary", MODELS["summary"])
    for record in list_videos([tmp_path / "videos"]):
        for stage in make_stages(ECHOES, QUICK):
            (outcome,) = stage.open({})[0]([record])
            journal.add(outcome)
            (record,) = record.after(outcome)
    return journal


def test_shards_are_what_training_reads(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "SHARD_SIZE", 2)
    out, names = tmp_path / "out", [f"{key}.txt" for key in journal.finished]
    last = journal.finished.pop()
    assert write_shards(out, journal, listed(tmp_path)) == 1 and samples(out) == [names[:2]]
    whole = (out / "shards" / "00000.tar").stat()
    journal.finished.append(last)
    assert write_shards(out, journal, listed(tmp_path)) == 2 and samples(out) == [names[:2], names[2:]]
    assert (out / "shards" / "00000.tar").stat() == whole  # a full shard stays
    summaries = [summarize_shard(str(out / "shards" / f"0000{number}.tar")) for number in range(2)]
    assert [summary.pairs(["txt"], "video") for summary in summaries] == [2, 1]
    videos = dict(read_members(out / "shards" / "00001.tar", ("mp4",)))
    (out / "shards" / "00001.tar").write_bytes(b"damaged")
    write_shards(out, journal, listed(tmp_path))
    assert dict(read_members(out / "shards" / "00001.tar", ("mp4",))) == videos


def test_clips_of_earlier_videos_stay_in_their_shard(journal: Journal, tmp_path: Path) -> None:
    out = tmp_path / "out"
    last = journal.finished.pop()
    write_shards(out, journal, listed(tmp_path))
    first = dict(read_members(out / "shards" / "00000.tar", ("mp4", "txt", "json")))
    journal.finished.append(last)
    write_shards(out, journal, {last: listed(tmp_path)[last]})  # the others are no longer given
    both = dict(read_members(out / "shards" / "00000.tar", ("mp4", "txt", "json")))
    assert len(both) == 9 and both.items() > first.items()


def test_only_given_videos_are_packed_and_only_as_they_were_captioned(
    journal: Journal, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, (first, second, _) = tmp_path / "out", journal.finished
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"private")
    lines = Records(out / "journal.jsonl", dict[str, object], "", checked=True)
    for line in lines.rows:
        if (line["key"], line["stage"]) == (second, "probe"):
            line["value"] |= {"path": str(secret)}
    lines.replace(lines.rows)
    foreign, videos = Journal(out), listed(tmp_path)
    del videos[second]
    (tmp_path / "videos" / "2.mp4").write_bytes(clip(30))
    with caplog.at_level(logging.WARNING):
        write_shards(out, foreign, videos)
    assert samples(out) == [[f"{first}.txt"]] and len(caplog.messages) == 2
    assert "secret.mp4: is not one of the videos that this run was given" in caplog.text
    assert "2.mp4: has changed since it was captioned" in caplog.text
    videos = listed(tmp_path)
    (tmp_path / "videos" / "1.mp4").unlink()
    write_shards(out, journal, videos)
    assert "1.mp4: no such file" in caplog.text and samples(out) == [[f"{first}.txt"]]
    journal.finished.reverse()  # rows have one order, whatever was finished first
    rows = pq.read_table(write_captions(out, journal)).to_pylist()
    assert [row["title"] for row in rows] == [f"title {number}" for number in range(3)]
    assert json.loads(rows[0]["models"]) == MODELS


def item(path: Path, content: bytes, start: float | None, end: float | None) -> Item:
    path.write_bytes(content)
    (whole,) = list_items([path])
    return replace(whole, start=start, end=end)


@pytest.mark.parametrize(
    ("format", "codec"),
    [
        ("mp4", "libx264"),
        ("mp4", "libx265"),
        ("matroska", "libx264"),
        ("webm", "libvpx-vp9"),
        ("mpegts", "libx264"),
        ("avi", "mpeg4"),
        ("mov", "mjpeg"),
    ],
)
@pytest.mark.parametrize(("start", "end"), [(0.8, 1.6), (None, 1.0), (1.0, None)])
def test_a_part_begins_and_ends_at_its_frames(
    format: str, codec: str, start: float | None, end: float | None, tmp_path: Path
) -> None:
    suffix, content = extract_clip(item(tmp_path / f"a.{format}", clip(60, format, codec), start, end))
    frames = read_frames(content, frames=2)
    first, last = map(number_of, frames.images)
    expected = round(25 * (end or 2.4)) - 1
    assert suffix == "mp4" and frames.complete
    assert first == round(25 * (start or 0)) and expected <= last <= expected + 3  # frames that others refer to


def test_a_codec_that_mp4_does_not_hold_begins_at_a_key_frame(tmp_path: Path) -> None:
    suffix, content = extract_clip(item(tmp_path / "a.webm", clip(60, "webm", "libvpx"), 0.8, 1.6))
    first, last = map(number_of, read_frames(content, frames=2).images)
    assert (suffix, first, last) == ("mkv", 12, 39)


def test_a_whole_video_is_its_own_file_and_a_part_stays_upright(tmp_path: Path) -> None:
    turned = with_display_matrix(clip(60), 0, 1, -1, 0)
    assert extract_clip(item(tmp_path / "a.mp4", turned, None, None)) == ("mp4", turned)
    _, content = extract_clip(item(tmp_path / "a.mp4", turned, 1.0, 2.0))
    assert read_frames(content).images[0].size == (64, 128)
    with pytest.raises(InputError, match="no such file"):
        extract_clip(Item("x.mp4", "x.mp4", tmp_path / "x.mp4", 1.0, 2.0))
