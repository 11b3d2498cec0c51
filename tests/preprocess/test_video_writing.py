"""Frames written as an MP4."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import OutputError
from perception_encoder.preprocess.video import read_frames, sample_frames
from perception_encoder.preprocess.video_writing import write_video, write_video_to


def test_frames_come_back(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with write_video(path, (65, 48), 12.5) as add:
        for level in (0, 100, 200):
            add(Image.new("RGB", (65, 48), (level, level, level)))
        add(np.full((48, 65, 3), 250, np.uint8))
        assert not path.exists()
    video = read_frames(path, frames=4)
    assert video.images[0].size == (64, 48)
    assert [np.asarray(image).mean().round() for image in video.images] == pytest.approx([0, 100, 200, 250], abs=4)
    assert [frame.time for frame in sample_frames(path, every=0)] == pytest.approx([0, 0.08, 0.16, 0.24], abs=1e-3)


def test_a_video_in_memory_has_the_same_frames() -> None:
    stream = io.BytesIO()
    with write_video_to(stream, (64, 48), 10) as add:
        for level in (0, 100, 200):
            add(Image.new("RGB", (64, 48), (level, level, level)))
    frames = list(sample_frames(stream.getvalue(), every=0))
    assert [np.asarray(frame.image).mean().round() for frame in frames] == pytest.approx([0, 100, 200], abs=4)
    assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.2], abs=1e-3)


def test_nothing_is_left_of_a_video_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), write_video(tmp_path / "a.mp4", (32, 32), 8) as add:
        add(Image.new("RGB", (32, 32)))
        raise ValueError("stop")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="could not be written"),
        write_video(tmp_path / "file" / "a.mp4", (32, 32), 8),
    ):
        pass
