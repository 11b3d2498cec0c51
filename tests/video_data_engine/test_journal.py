"""The journal: read again after a kill in the middle of a line, and what it says about failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.errors import DataError
from perception_encoder.inference.listing import Item
from perception_encoder.video_data_engine.journal import Journal
from perception_encoder.video_data_engine.record import FRAMES, PROBE, SUMMARY, ClipRecord, StageFailure, StageResult

RECORD = ClipRecord(key="a", item=Item("a.mp4", "a.mp4"))


def result(stage: str, frames: tuple[bytes, ...] = (), **value: object) -> StageResult:
    return StageResult(key="a", stage=stage, value=value, seconds=1.5, frames=frames)


def test_results_and_frames_are_restored(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(result(PROBE, clips=[[None, None]], title="чашка"))
    journal.add(result(FRAMES, (b"first", b"second"), times=[0.0, 1.0]))
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"key": "a", "stage": "sum')
    again = Journal(tmp_path)
    record = again.restore(RECORD)
    assert record.frames == (b"first", b"second") and record.next_stage == "video_caption"
    assert record.results[PROBE]["title"] == "чашка"
    again.add(result(SUMMARY, text="a cup"))
    assert Journal(tmp_path).finished == ["a"] and again.restore(RECORD).frames == ()


def test_a_failure_lasts_until_a_result(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    failure = StageFailure(key="a", stage=PROBE, source="a.mp4", reason="is empty", cause="video")
    journal.add(failure)
    assert Journal(tmp_path).failures == {"a": failure}
    journal.add(result(PROBE, clips=[]))
    assert Journal(tmp_path).failures == {}


@pytest.mark.parametrize("line", ['{"key": "a"}\n', "[]\n", "words\n"])
def test_a_damaged_journal_is_an_error(tmp_path: Path, line: str) -> None:
    (tmp_path / "journal.jsonl").write_text(line)
    with pytest.raises(DataError, match=r"journal\.jsonl"):
        Journal(tmp_path)
