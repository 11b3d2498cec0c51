"""The whole engine: its results, its resumption, its quarantine, its settings and its report."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from perception_encoder.errors import ConfigError, DataError, OutputError
from perception_encoder.preprocess.video import read_frames
from perception_encoder.store import Records
from perception_encoder.video_data_engine import outputs
from perception_encoder.video_data_engine.config import EngineConfig, WorkConfig
from perception_encoder.video_data_engine.journal import Journal
from perception_encoder.video_data_engine.run import caption_videos
from tests.clips import clip, number_of
from tests.video_data_engine.conftest import ECHOES, QUICK
from tests.video_data_engine.models import ECHO, attempts, notes
from tests.video_data_engine.odd_videos import bad_videos, odd_videos


def rows(out: Path) -> dict[str, dict[str, object]]:
    """The captions by the title of the video, or by its key."""
    return {row["title"] or row["video_id"]: row for row in pq.read_table(out / "captions.parquet").to_pylist()}


def test_captions_with_everything_between(add_video, tmp_path: Path) -> None:
    add_video("a", title="First", description="二つ目の説明", tags=["cup", "чашка"])
    add_video("b")
    out = tmp_path / "out"
    report = caption_videos([tmp_path / "videos"], out, ECHOES, QUICK)
    assert (report.videos, report.clips, report.quarantine) == (2, 2, [])
    first = rows(out)["First"]
    assert first["summary"] == "First: frames 0 25 50" and first["video_caption"] == "frames 0 25 50"
    assert first["frame_captions"] == ["frames 0", "frames 50"] and first["captioned_times"] == [0.0, 2.0]
    assert (first["description"], first["keywords"]) == ("二つ目の説明", "cup, чашка")
    assert (first["width"], first["height"], first["num_frames"], first["fps"]) == (128, 64, 60, 25)
    models = json.loads(str(first["models"]))
    assert models["summary"] == {
        "name": "echo",
        "prompt": "summary_v1",
        "prompt_hash": models["summary"]["prompt_hash"],
    }
    with tarfile.open(out / "shards" / "00000.tar") as tar:
        members = {name: tar.extractfile(name).read() for name in tar.getnames()}
    key = first["video_id"]
    assert members[f"{key}.mp4"] == (tmp_path / "videos" / "a.mp4").read_bytes()
    assert members[f"{key}.txt"].decode() == first["summary"]
    assert json.loads(members[f"{key}.json"])["frame_captions"] == first["frame_captions"]
    settings = json.loads((out / "settings.json").read_text())
    assert settings["config"]["frames"] == 3 and "alt text" in settings["prompts"]["summary_v1"]
    shares = [row["share"] for row in report.to_dict()["stages"]]
    assert sum(shares) == pytest.approx(1, abs=1e-3) and report.videos_per_minute > 0


def test_what_is_done_is_not_done_again(add_video, tmp_path: Path) -> None:
    add_video("a", title="First")
    out = tmp_path / "out"
    caption_videos([tmp_path / "videos"], out, ECHOES, QUICK)
    questions = notes("seen") + notes("summary")
    add_video("b", title="Second")
    report = caption_videos([tmp_path / "videos"], out, ECHOES, QUICK)
    assert (report.skipped, report.clips, report.done["probe"]) == (1, 2, 1)
    assert len(notes("seen") + notes("summary")) == 2 * len(questions)
    assert rows(out).keys() == {"First", "Second"}
    with tarfile.open(out / "shards" / "00000.tar") as tar:
        assert len(tar.getnames()) == 6


def test_a_run_goes_on_from_the_stage_it_had_reached(add_video, tmp_path: Path) -> None:
    add_video("a", title="First")
    out = tmp_path / "out"
    caption_videos([tmp_path / "videos"], out, ECHOES, QUICK)
    journal = out / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert [json.loads(line)["stage"] for line in lines] == [
        "probe",
        "frames",
        "video_caption",
        "frame_captions",
        "summary",
    ]
    journal.write_text("".join(lines[:3]) + lines[3][:40])  # cut off in the middle of a line
    seen = len(notes("seen"))
    assert caption_videos([tmp_path / "videos"], out, ECHOES, QUICK).clips == 1
    assert notes("seen")[seen:] == ["frames 0", "frames 50"]  # of the stored frames; the video's caption stays
    next((out / "frames").glob("*.tar")).write_bytes(b"damaged")
    journal.write_text("".join(lines[:3]))
    assert caption_videos([tmp_path / "videos"], out, ECHOES, QUICK).clips == 1
    assert rows(out)["First"]["summary"] == "First: frames 0 25 50"


def test_failures_of_one_clip_leave_the_others(add_video, tmp_path: Path) -> None:
    for title in ("First", "deadly", "broken", "mute", "shy", "Last"):
        add_video(title, title=title)
    out = tmp_path / "out"
    report = caption_videos([tmp_path / "videos"], out, ECHOES, QUICK)
    assert rows(out).keys() == {"First", "shy", "Last"} and attempts("shy") == 2
    reasons = {Path(failure.source).stem: (failure.reason, failure.cause) for failure in report.quarantine}
    assert reasons.keys() == {"deadly", "broken", "mute"}
    assert reasons["broken"] == ("ZeroDivisionError: integer division or modulo by zero; attempts: 3", "video")
    assert reasons["deadly"] == ("ended its worker (exit status 7); attempts: 3", "video")
    assert reasons["mute"] == ("the model answered without a word", "model")
    lines = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert {(line["stage"], line["cause"]) for line in lines} == {("summary", "video"), ("summary", "model")}
    before = attempts("mute")
    assert caption_videos([tmp_path / "videos"], out, ECHOES, QUICK).skipped == 6
    assert attempts("mute") == before
    assert len(caption_videos([tmp_path / "videos"], out, ECHOES, QUICK, retry=True).quarantine) == 3
    assert attempts("mute") == before + 1


def test_a_clip_that_takes_too_long_is_given_up(add_video, tmp_path: Path) -> None:
    add_video("slow", title="slow")
    add_video("quick", title="quick")
    work = WorkConfig(workers=1, batch_size=2, timeout=3, tries=1)
    report = caption_videos([tmp_path / "videos"], tmp_path / "out", ECHOES, work)
    (failure,) = report.quarantine
    assert failure.reason == "took longer than 3 s; attempts: 1" and Path(failure.source).stem == "slow"
    assert rows(tmp_path / "out").keys() == {"quick"}


def test_a_long_video_becomes_clips(add_video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_video("long")
    out = tmp_path / "out"
    config = replace(ECHOES, longest=1.0, shortest=0.4)
    monkeypatch.setattr(outputs, "SHARD_SIZE", 2)
    report = caption_videos([tmp_path / "videos"], out, config, QUICK)
    assert report.clips == 3
    captions = sorted(rows(out).values(), key=lambda row: row["start"])
    assert [(row["start"], row["end"]) for row in captions] == [(0.0, 0.8), (0.8, 1.6), (1.6, 2.4)]
    assert [row["num_frames"] for row in captions] == [20, 20, 20]  # the clip's, not those of the whole video
    assert [row["video_caption"] for row in captions] == ["frames 0 10 20", "frames 20 30 40", "frames 40 50 59"]
    shards = sorted((out / "shards").iterdir())
    samples = {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            samples |= {name: tar.extractfile(name).read() for name in tar.getnames() if name.endswith("mp4")}
    assert len(shards) == 2 and samples.keys() == {f"{row['video_id']}.mp4" for row in captions}
    first = [number_of(read_frames(samples[f"{row['video_id']}.mp4"], frames=2).images[0]) for row in captions]
    assert first == [0, 20, 40]


def test_odd_videos_are_captioned_and_bad_ones_are_in_quarantine_with_their_reasons(add_video, tmp_path: Path) -> None:
    bad, odd = bad_videos(), odd_videos()
    for name, (content, *_) in {**bad, **odd}.items():
        add_video(name, content)
    report = caption_videos([tmp_path / "videos"], tmp_path / "out", ECHOES, QUICK)
    reasons = {Path(failure.source).stem: failure.reason for failure in report.quarantine}
    assert reasons.keys() == bad.keys() and report.clips == len(odd)
    assert [reason for name, (_, reason) in bad.items() if reason not in reasons[name]] == []
    facts = {Path(str(row["path"])).stem: row for row in rows(tmp_path / "out").values()}
    for name, (_, size, frames) in odd.items():
        assert (facts[name]["width"], facts[name]["height"]) == size, name
        assert facts[name]["num_frames"] == frames or name == "truncated"


def test_what_cannot_be_done_is_refused_before_anything_is_written(add_video, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no videos in"):
        caption_videos([tmp_path / "videos"], tmp_path / "out")
    add_video("a")
    with pytest.raises(ConfigError, match="names no model"):
        caption_videos([tmp_path / "videos"], tmp_path / "out", EngineConfig(captioner=ECHO, llm="http://x/v1"))
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_error_and_the_next_run_goes_on(
    add_video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_video("a", title="First")
    append, count = Records.append, list[Path]()

    def full(records: Records, *rows: object) -> None:
        count.extend([records.path] * (records.path.name == "journal.jsonl"))
        if len(count) == 4:
            with records.path.open("a") as file:
                file.write('{"key": "a')
            raise OutputError(f"{records.path} could not be written: No space left on device")
        append(records, *rows)

    with monkeypatch.context() as patch, pytest.raises(OutputError, match="No space left"):
        patch.setattr(Records, "append", full)
        caption_videos([tmp_path / "videos"], tmp_path / "out", ECHOES, QUICK)
    assert caption_videos([tmp_path / "videos"], tmp_path / "out", ECHOES, QUICK).clips == 1
    assert len(notes("seen")) == 5 and rows(tmp_path / "out").keys() == {"First"}


def test_videos_in_a_tar_have_their_json(add_video, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "videos.tar", "w") as tar:
        for name, content in (("a.mp4", clip(60)), ("a.json", b'{"description": "A cup.", "keywords": ["cup"]}')):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    caption_videos([tmp_path / "videos.tar"], tmp_path / "out", ECHOES, QUICK)
    (row,) = rows(tmp_path / "out").values()
    assert (row["description"], row["keywords"]) == ("A cup.", "cup")
    with tarfile.open(tmp_path / "out" / "shards" / "00000.tar") as tar:
        assert tar.extractfile(f"{row['video_id']}.mp4").read() == clip(60)


def test_another_model_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add_model("summary", {"name": "llm", "weights": "12ab"})
    Journal(tmp_path).add_model("summary", {"name": "llm", "weights": "12ab"})
    assert Journal(tmp_path).models == {"summary": {"name": "llm", "weights": "12ab"}}
    with pytest.raises(OutputError, match='weights "12ab", not "34cd"'):
        journal.add_model("summary", {"name": "llm", "weights": "34cd"})
