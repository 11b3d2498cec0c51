"""Records through the stages, and the journal: read again after a kill in the middle of a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_encoder.errors import DataError
from perception_encoder.formats.listing import Item
from perception_encoder.store import _with_checksum
from perception_encoder.video_data_engine.journal import (
    FRAME_CAPTIONS,
    FRAMES,
    PROBE,
    SUMMARY,
    VIDEO_CAPTION,
    ClipRecord,
    Journal,
    StageFailure,
    StageResult,
)

RECORD = ClipRecord(key="a", item=Item("a.mp4", "a.mp4"))


NUMBERS = dict.fromkeys(("duration", "fps", "frames", "width", "height"), 1)
VALUES: dict[str, dict[str, object]] = {
    PROBE: {**NUMBERS, "path": "a.mp4", "codec": "h264", "sha256": "ab", "metadata": {}, "clips": [[None, None]]},
    FRAMES: {"video": "a", "start": None, "end": None, "times": [0.0, 1.0]},
    VIDEO_CAPTION: {"text": "a cup", "finished": True},
    FRAME_CAPTIONS: {"times": [0.0], "captions": ["a cup"], "finished": True},
    SUMMARY: {"text": "a cup", "finished": True},
}


def result(stage: str, frames: tuple[bytes, ...] = (), **value: object) -> StageResult:
    return StageResult(key="a", stage=stage, value={**VALUES[stage], **value}, seconds=1.5, frames=frames)


def line(key: str, stage: str, **value: object) -> str:
    fields = {"key": key, "stage": stage, "seconds": 0, "value": {**VALUES.get(stage, {}), **value}}
    return _with_checksum(json.dumps(fields).encode()).decode()


def test_results_and_frames_are_restored(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(result(PROBE, metadata={"title": "чашка"}))
    journal.add(result(FRAMES, (b"first", b"second")))
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"key": "a", "stage": "sum')
    again = Journal(tmp_path)
    record = again.restore(RECORD)
    assert record.frames == (b"first", b"second") and record.next_stage == "video_caption"
    assert record.results[PROBE]["metadata"] == {"title": "чашка"}
    for stage in (VIDEO_CAPTION, FRAME_CAPTIONS, SUMMARY):
        again.add(result(stage))
    assert Journal(tmp_path).finished == ["a"] and again.restore(RECORD).frames == ()


def test_a_failure_lasts_until_a_result(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    failure = StageFailure(key="a", stage=PROBE, source="a.mp4", reason="is empty", cause="video")
    journal.add(failure)
    assert Journal(tmp_path).failures == {"a": failure}
    journal.add(result(PROBE))
    assert Journal(tmp_path).failures == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (line("../../x", FRAMES), "key is '../../x'; it must be letters, digits, - and _; choose another output"),
        (line("a", "dream"), "stage is 'dream'; it must be one of probe, frames"),
        (line("a", PROBE, clips=[[0]]), r"clips\[0\] is \[0\]; expected a list of 2"),
        (line("a", PROBE, clips=[]), "probe has no clips or no times"),
        (line("a", PROBE, duration=1e300), "duration is 1e.300; it must be from"),
        (line("a", SUMMARY), "has a summary of a, but no frames; choose another output"),
    ],
)
def test_a_damaged_journal_is_one_line_that_names_the_remedy(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "journal.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=rf"journal\.jsonl.*{reason}"):
        Journal(tmp_path)
