"""Parts of videos are copied to the frame, without encoding anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from perception_encoder.errors import InputError
from perception_encoder.inference.listing import Item, list_items
from perception_encoder.preprocess.video import read_frames
from perception_encoder.video_data_engine.videos.extract import extract_clip
from tests.clips import clip, number_of, with_display_matrix


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
