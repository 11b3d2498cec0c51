"""Sample images, and the clip made of one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.inference import samples
from perception_encoder.preprocess.video import read_frames

pytest.importorskip("skimage")


def test_the_clip_moves_from_left_to_right(tmp_path: Path) -> None:
    brought = samples.write_samples(tmp_path)
    frames = read_frames(brought.gallery / samples.CLIP, frames=3)
    assert frames.duration == pytest.approx(4) and frames.frame_count == 60
    assert frames.images[0].size == (480, 360)
    assert frames.images[0].tobytes() != frames.images[-1].tobytes()
    assert brought.query.parent != brought.gallery
