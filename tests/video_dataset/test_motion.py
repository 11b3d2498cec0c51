"""Motion in videos: of the codec's vectors, of matched blocks, and of objects besides the camera."""

from __future__ import annotations

import gc
import io
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from perception_encoder.preprocess.video_file import write_video
from perception_encoder.video_dataset.motion import (
    NO_MOTION,
    camera_flow,
    measure_motion,
    measure_object_motion,
    shift_lengths,
)
from tests.clips import clip

SIDE = 160


def film(shift: int, codec: str, count: int = 16, group: int = 250) -> bytes:
    """A video of noise that moves `shift` pixels to the right in each frame."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8).repeat(8, 0).repeat(8, 1)
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4" if codec == "libx264" else "matroska") as container:
        video = container.add_stream(codec, rate=8)
        video.width = video.height = SIDE
        video.gop_size = group
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        video.options = {"bf": "0", "refs": "1"} if codec == "libx264" else {}
        for number in range(count):
            grey = np.roll(noise, number * shift, axis=1)
            container.mux(video.encode(av.VideoFrame.from_ndarray(grey.repeat(3).reshape(SIDE, SIDE, 3))))
        container.mux(video.encode())
    return stream.getvalue()


@pytest.mark.parametrize("shift", [0, 2, 4])
def test_the_codecs_vectors_tell_how_far_the_image_moves(shift: int) -> None:
    motion = measure_motion(film(shift, "libx264"))
    assert (motion.frames, motion.key_frames, motion.rate) == (16, 1, 8)
    assert measure_motion(film(shift, "libx264", group=8)).key_frames == 2
    assert motion.magnitude == pytest.approx(shift / np.hypot(SIDE, SIDE), rel=0.25)
    assert (motion.variance == 0) == (shift == 0)


@pytest.mark.parametrize("shift", [0, 2, 4])
def test_blocks_tell_the_same_where_the_codec_has_no_vectors(shift: int) -> None:
    motion = measure_motion(film(shift, "mjpeg"))
    assert motion.key_frames == motion.frames == 16
    assert motion.magnitude == pytest.approx(shift / np.hypot(SIDE, SIDE), rel=0.2)


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
        left = sum(type(item) is av.VideoFrame for item in gc.get_objects())
    finally:
        gc.enable()
    assert left < 20


def test_one_frame_has_no_motion() -> None:
    motion = measure_motion(clip(1))
    assert (motion.frames, motion.magnitude, motion.variance) == (1, 0, 0)
    assert measure_object_motion(clip(1)) == NO_MOTION


SIDE, FRAMES = 160, 24
CAMERAS = ("still", "pan", "zoom")


def texture(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth noise, (height, width, 3) uint8."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def scene(path: Path, moving: Sequence[range], camera: str = "still") -> Path:
    """A video of two squares before a background; each moves down in the frames of its range, as the camera does."""
    ground = texture(2 * SIDE, 2 * SIDE, 0)
    patches = [texture(32, 32, 1), texture(32, 32, 2)]
    with write_video(path, (SIDE, SIDE), 8.0) as add:
        for number in range(FRAMES):
            image = ground.copy()
            for patch, left, frames in zip(patches, (96, 192), moving, strict=True):
                top = 96 + 3 * sum(frame <= number for frame in frames)
                image[top : top + 32, left : left + 32] = patch
            shift = 2 * number if camera == "pan" else 0
            inset = number if camera == "zoom" else 0
            box = (64 + shift + inset, 64 + inset, 64 + shift + SIDE - inset, 64 + SIDE - inset)
            add(np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC, box)))
    return path


@pytest.mark.parametrize("camera", CAMERAS)
def test_of_a_moving_camera_nothing_is_counted(camera: str, tmp_path: Path) -> None:
    motion = measure_object_motion(scene(tmp_path / "a.mp4", (range(0), range(0)), camera))
    assert motion.moving < 0.1 and motion.areas[2] == 0 and motion.regions[1:] == (0, 0)


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize(
    ("moving", "starts", "share"),
    [
        ((range(4, 12), range(0)), 1, 8 / 23),
        ((range(4, 12), range(4, 12)), 1, 8 / 23),
        ((range(3, 9), range(14, 20)), 2, 12 / 23),
    ],
)
def test_objects_are_counted_whatever_the_camera_does(
    moving: Sequence[range], starts: int, share: float, camera: str, tmp_path: Path
) -> None:
    """Two objects that move at once, or one after the other, are two regions."""
    motion = measure_object_motion(scene(tmp_path / "a.mp4", moving, camera))
    objects = sum(bool(frames) for frames in moving)
    assert motion.regions[1:] == (objects, objects)  # 4 % of the frame in each of its frames
    assert motion.starts == starts and motion.moving == pytest.approx(share, abs=0.1)
    assert list(motion.areas) == sorted(motion.areas) and 0.01 < motion.areas[-1] < 0.3


def test_the_flow_of_a_plane_is_found_beside_an_object() -> None:
    y, x = np.mgrid[-0.5:0.5:60j, -0.5:0.5:80j]
    plane = np.stack([0.3 + 0.2 * y - 0.1 * x * y, 1.0 + 0.5 * x - 0.3 * y - 0.1 * x * x])
    flow = plane.copy()
    flow[:, 20:40, 10:30] += 3
    assert np.abs(camera_flow(flow) - plane).max() < 0.05
