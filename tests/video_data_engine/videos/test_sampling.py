"""Frames of a clip, stored as JPEG files and read again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from perception_encoder.inference.listing import list_items
from perception_encoder.video_data_engine.record import FRAMES, ClipRecord, StageResult
from perception_encoder.video_data_engine.videos.sampling import open_clip_frames, sample_clip
from tests.clips import clip, number_of


def test_frames_of_a_part_are_reduced_and_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip(60))
    (item,) = list_items([tmp_path / "a.mp4"])
    record = ClipRecord(key="a-0001", video="a", item=replace(item, start=0.8, end=1.6))
    value, frames = sample_clip(record, 3, 32)
    assert value == {"video": "a", "start": 0.8, "end": 1.6, "times": [0.8, 1.2, 1.6], "size": [64, 32]}
    opened = open_clip_frames(record.after(StageResult(key=record.key, stage=FRAMES, value=value, frames=frames)))
    assert [number_of(image.resize((128, 64))) for image in opened.images] == [20, 30, 40]
    assert opened.times == value["times"]


def test_a_short_clip_has_fewer_frames(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip(2))
    (item,) = list_items([tmp_path / "a.mp4"])
    assert len(sample_clip(ClipRecord(key="a", item=item), 8, 448)[1]) == 2
