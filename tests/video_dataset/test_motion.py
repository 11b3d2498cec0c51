"""Motion features: known movements, from the codec's vectors and from blocks."""

from __future__ import annotations

import gc
import io
from pathlib import Path

import av
import numpy as np
import pytest

from perception_encoder.errors import MediaDecodeError, MediaNotFoundError
from perception_encoder.video_dataset.motion import measure_motion, shift_lengths
from tests.clips import clip

SIDE = 160


def film(shift: int, codec: str, count: int = 16, group: int = 250, hold: int = 1) -> bytes:
    """A video of noise that moves `shift` pixels to the right in each frame, or in every `hold`-th one."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8).repeat(8, 0).repeat(8, 1)
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4" if codec == "libx264" else "matroska") as container:
        video = container.add_stream(codec, rate=8)
        video.width = video.height = SIDE
        video.gop_size = group
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        video.options = {"bf": "0", "refs": "1"} if codec == "libx264" else {}
        for number in range(count):
            grey = np.roll(noise, number // hold * shift, axis=1)
            container.mux(video.encode(av.VideoFrame.from_ndarray(grey.repeat(3).reshape(SIDE, SIDE, 3))))
        container.mux(video.encode())
    return stream.getvalue()


@pytest.mark.parametrize("shift", [0, 2, 4])
def test_the_codecs_vectors_tell_how_far_the_image_moves(shift: int) -> None:
    motion = measure_motion(film(shift, "libx264"))
    assert motion.source == "codec" and (motion.frames, motion.key_frames, motion.rate) == (16, 1, 8)
    assert motion.magnitude == pytest.approx(shift / np.hypot(SIDE, SIDE), rel=0.25)
    assert (motion.variance == 0) == (shift == 0)


@pytest.mark.parametrize("shift", [0, 2, 4])
def test_blocks_tell_the_same_where_the_codec_has_no_vectors(shift: int) -> None:
    motion = measure_motion(film(shift, "mjpeg"))
    assert motion.source == "blocks" and motion.key_frames == motion.frames == 16
    assert motion.magnitude == pytest.approx(shift / np.hypot(SIDE, SIDE), rel=0.2)


def test_the_variance_is_that_of_the_lengths() -> None:
    motion = measure_motion(film(4, "mjpeg", count=17, hold=2))  # half of the frames stay
    length = 4 / np.hypot(SIDE, SIDE)
    assert motion.magnitude == pytest.approx(length / 2, rel=0.2)
    assert motion.variance == pytest.approx(length**2 / 4, rel=0.15)


def test_key_frames_are_counted() -> None:
    motion = measure_motion(clip(60, group=12))
    assert (motion.frames, motion.key_frames, motion.rate) == (60, 5, 25)


def test_a_flat_block_does_not_move_and_a_shift_is_found() -> None:
    flat = np.full((32, 32), 100, np.uint8)
    assert not shift_lengths(flat, flat + 1).any()
    noise = np.random.default_rng(1).integers(0, 256, (64, 64), np.uint8)
    moved = np.roll(noise, (3, -4), (0, 1))
    inner = shift_lengths(noise, moved)[1:-1, 1:-1]
    assert inner == pytest.approx(5 / np.hypot(64, 64))


def test_frames_do_not_stay_in_memory() -> None:
    """The codec's vectors and their frame refer to each other; a long video must not wait for the collector."""
    content = film(2, "libx264", count=60)
    gc.collect()
    gc.disable()
    try:
        measure_motion(content)
        left = sum(type(each) is av.VideoFrame for each in gc.get_objects())
    finally:
        gc.enable()
    assert left < 20


def test_one_frame_has_no_motion() -> None:
    motion = measure_motion(clip(1))
    assert (motion.frames, motion.magnitude, motion.variance) == (1, 0, 0)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MediaNotFoundError):
        measure_motion(tmp_path / "none.mp4")
    with pytest.raises(MediaDecodeError):
        measure_motion(b"no video" * 100)
