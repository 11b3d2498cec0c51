"""What is known about a video before it is captioned."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.errors import InputError
from perception_encoder.inference.listing import list_items
from perception_encoder.video_data_engine.config import CutConfig
from perception_encoder.video_data_engine.record import ClipRecord
from perception_encoder.video_data_engine.videos.probe import probe_video
from tests.clips import clip
from tests.video_data_engine.odd_videos import bad_videos, odd_videos


def record(path: Path, part: str = "") -> ClipRecord:
    (item,) = list_items([f"{path}{part}"])
    return ClipRecord(key="a", item=item)


def test_facts_of_a_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(clip(60, sound=True))
    facts = probe_video(record(path), CutConfig())
    assert (facts["codec"], facts["pixel_format"], facts["sound"], facts["bytes"]) == (
        "h264",
        "yuv420p",
        True,
        path.stat().st_size,
    )
    assert (facts["duration"], facts["frames"], facts["fps"], facts["clips"]) == (2.4, 60, 25.0, [(None, None)])
    assert probe_video(record(path), CutConfig(longest=1.0, shortest=0.5))["clips"] == [
        (0, 0.8),
        (0.8, 1.6),
        (1.6, 2.4),
    ]


@pytest.mark.parametrize("name", odd_videos())
def test_odd_videos_can_be_used(name: str, tmp_path: Path) -> None:
    content, size, frames = odd_videos()[name]
    (tmp_path / "a.mp4").write_bytes(content)
    facts = probe_video(record(tmp_path / "a.mp4"), CutConfig())
    assert (facts["width"], facts["height"]) == size and facts["complete"] == (name != "truncated")
    assert facts["frames"] == frames or name == "truncated"


@pytest.mark.parametrize("name", bad_videos())
def test_bad_videos_are_errors(name: str, tmp_path: Path) -> None:
    content, reason = bad_videos()[name]
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(InputError, match=reason):
        probe_video(record(tmp_path / "a.mp4"), CutConfig())


def test_a_part_of_a_video_is_one_clip(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip(60))
    config = CutConfig(longest=1.0, shortest=0.5)
    assert probe_video(record(tmp_path / "a.mp4", "@0.2s-2s"), config)["clips"] == [(0.2, 2.0)]
    with pytest.raises(InputError, match="there is nothing at 9 s"):
        probe_video(record(tmp_path / "a.mp4", "@9s-10s"), config)
