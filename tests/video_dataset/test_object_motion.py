"""Motion besides the camera's: known movements before a still camera, one that pans and one that comes nearer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import MediaDecodeError, MediaNotFoundError
from perception_encoder.preprocess.video_file import write_video
from perception_encoder.video_dataset.object_motion import (
    AREA_PERCENTILES,
    LONGEST,
    NO_MOTION,
    REGION_SIZES,
    ObjectMotion,
    camera_flow,
    measure_object_motion,
    moving_pixels,
)
from tests.clips import clip

SIDE, FRAMES = 160, 24
CAMERAS = ("still", "pan", "zoom")


def texture(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth noise, (height, width, 3) uint8."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def scene(path: Path, moving: Sequence[range], camera: str = "still", rate: float = 8.0) -> Path:
    """A video of two squares before a background; each moves down in the frames of its range, as the camera does."""
    ground = texture(2 * SIDE, 2 * SIDE, 0)
    patches = [texture(32, 32, 1), texture(32, 32, 2)]
    with write_video(path, (SIDE, SIDE), rate) as add:
        for number in range(FRAMES):
            image = ground.copy()
            for patch, left, frames in zip(patches, (96, 192), moving, strict=True):
                top = 96 + 3 * sum(each <= number for each in frames)
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


def test_frames_are_an_eighth_of_a_second_apart(tmp_path: Path) -> None:
    """A video of twice the rate, whose frames differ half as much, has nearly the same motion."""
    slow = measure_object_motion(scene(tmp_path / "slow.mp4", (range(4, 16), range(0))))
    fast = measure_object_motion(scene(tmp_path / "fast.mp4", (range(4, 16), range(0)), rate=16.0))
    assert (slow.starts, fast.starts) == (1, 1)
    assert fast.moving == pytest.approx(slow.moving, abs=1.5 / 11) and slow.moving == pytest.approx(12 / 23, abs=0.1)


def test_the_flow_of_a_plane_is_found_beside_an_object() -> None:
    y, x = np.mgrid[-0.5:0.5:60j, -0.5:0.5:80j]
    plane = np.stack([0.3 + 0.2 * y - 0.1 * x * y, 1.0 + 0.5 * x - 0.3 * y - 0.1 * x * x])
    flow = plane.copy()
    flow[:, 20:40, 10:30] += 3
    assert np.abs(camera_flow(flow) - plane).max() < 0.05


def test_what_differs_all_the_time_does_not_move() -> None:
    differences = np.zeros((9, 20, 20), np.float32)
    differences[:, 2:8, 2:8] = 0.02  # stands out of the plane
    differences[3:5, 12:18, 12:18] = 0.02
    moves = moving_pixels(differences)
    assert not moves[:, :9, :9].any() and moves[3:5, 13:17, 13:17].all() and not moves[[0, 1, 2, 5, 6, 7, 8]].any()


def test_columns_are_numbers_by_name() -> None:
    motion = ObjectMotion(0.5, 2, (3, 2, 1), (0.0, 0.1, 0.2, 0.3, 0.4, 0.5))
    columns = motion.columns()
    assert len(columns) == 2 + len(REGION_SIZES) + len(AREA_PERCENTILES)
    assert columns["regions_small"] == 3 and columns["area_p25"] == 0.1 and NO_MOTION.columns().keys() == columns.keys()


def test_long_videos_are_looked_at_from_the_beginning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert LONGEST >= 60
    path = scene(tmp_path / "a.mp4", (range(4, 8), range(14, 20)))
    monkeypatch.setattr("perception_encoder.video_dataset.object_motion.LONGEST", 12 / 8)
    assert measure_object_motion(path).regions[1] == 1


def test_one_frame_has_no_motion() -> None:
    assert measure_object_motion(clip(1)) == NO_MOTION


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MediaNotFoundError):
        measure_object_motion(tmp_path / "none.mp4")
    with pytest.raises(MediaDecodeError):
        measure_object_motion(b"no video" * 100)
