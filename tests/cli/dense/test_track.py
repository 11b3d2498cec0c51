"""`pe track`: masks in DAVIS's layout, an overlay, boxes, and clear errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.preprocess.video import read_frames
from perception_encoder.preprocess.video_file import write_video
from tests.clips import of_two_sizes
from tests.conftest import Run

COUNT = 5


def frame(number: int) -> Image.Image:
    """A red square that moves to the right before a green background, 96x64."""
    pixels = np.full((64, 96, 3), (20, 120, 30), np.uint8)
    pixels[16:48, 8 + 6 * number : 40 + 6 * number] = (220, 30, 30)
    return Image.fromarray(pixels)


def mask() -> np.ndarray:
    labels = np.zeros((64, 96), np.uint8)
    labels[16:48, 8:40] = 3
    return labels


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with write_video(path, (96, 64), 10) as add:
        for number in range(COUNT):
            add(frame(number))
    return path


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    directory = tmp_path / "dog"
    directory.mkdir()
    for number in range(COUNT):
        frame(number).save(directory / f"{number + 10:05d}.png")
    return directory


def masks_of(directory: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(directory.glob("*.png"))]


def test_a_mask_is_followed_through_a_directory(run_pe: Callable[..., Run], frames: Path, tmp_path: Path) -> None:
    Image.fromarray(mask()).save(tmp_path / "first.png")
    out = tmp_path / "out"
    run = run_pe("track", frames, "--mask", tmp_path / "first.png", "-o", out, "--short-side", 128)
    assert run.status == 0 and run.stdout.startswith("1 object in 5 frames")
    assert [path.name for path in sorted((out / "dog").iterdir())] == [f"{number + 10:05d}.png" for number in range(5)]
    masks = masks_of(out / "dog")
    assert np.array_equal(masks[0], mask()) and all(set(np.unique(item)) == {0, 3} for item in masks)
    value = json.loads((out / "dog.json").read_text())
    assert value["frames"][0] == {"name": "00010", "objects": [{"id": 3, "bbox": [8, 16, 32, 32], "area": 1024}]}
    left = [item["objects"][0]["bbox"][0] for item in value["frames"]]
    assert left[-1] > left[0] + 8
    assert len(read_frames(out / "dog.mp4", frames=5).images) == 5


def test_boxes_and_points_of_a_video(run_pe: Callable[..., Run], clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("track", clip, "--box", "4,12,44,52", "--point", "0.95,0.1", "-o", out, "--short-side", 128, "--json")
    run = run_pe(*words)
    assert run.status == 0
    first = json.loads(run.stdout)["frames"][0]["objects"]
    assert [item["id"] for item in first] == [1, 2]
    assert first[0]["bbox"] == pytest.approx([8, 16, 32, 32], abs=8) and len(masks_of(out / "clip")) == COUNT
    printed = run_pe(*(word for word in words if word not in ("-o", out, "--json"))).stdout.splitlines()
    left, top, width, height = first[0]["bbox"]
    assert printed[0].split("\t") == ["frame", "object", "x0", "y0", "x1", "y1"]
    assert printed[1].split("\t") == ["00000", "1", *map(str, (left, top, left + width, top + height))]


def test_an_object_that_leaves_the_video(run_pe: Callable[..., Run], tmp_path: Path) -> None:
    frames, out = tmp_path / "leaving", tmp_path / "out"
    frames.mkdir()
    noise = np.random.default_rng(0).integers(0, 30, (96, 128, 3))
    for number, left in enumerate((60, 75, 90, 105, 120, 140, 140)):
        pixels = (np.array([20, 120, 30]) + noise).astype(np.uint8)
        pixels[30:70, left : left + 40] = (220, 30, 30)
        Image.fromarray(pixels).save(frames / f"{number}.png")
    first = np.zeros((96, 128), np.uint8)
    first[30:70, 60:100] = 1
    Image.fromarray(first).save(tmp_path / "first.png")
    run = run_pe("track", frames, "--mask", tmp_path / "first.png", "-o", out, "--short-side", 128)
    assert run.status == 0 and run.stdout.startswith("1 object in 7 frames; 1 not in the last one")
    areas = [
        sum(one["area"] for one in item["objects"]) for item in json.loads((out / "leaving.json").read_text())["frames"]
    ]
    assert areas[1] > 1000 > areas[3] > areas[4] > 0 and areas[5:] == [0, 0]
    assert not masks_of(out / "leaving")[-1].any()


def test_a_video_whose_frame_size_changes(run_pe: Callable[..., Run], frames: Path, tmp_path: Path) -> None:
    frame(2).resize((48, 32)).save(frames / "00012.png")
    run = run_pe("track", frames, "--box", "4,12,44,52", "-o", tmp_path / "out", "--short-side", 64)
    assert run.status == 2 and "frame 2: has 48x32 pixels, the first frame 96x64" in run.stderr
    (tmp_path / "clip.h264").write_bytes(of_two_sizes((96, 64), (64, 48)))
    run = run_pe("track", tmp_path / "clip.h264", "--box", "0,0,1,1", "-o", tmp_path / "out", "--short-side", 64)
    assert run.status == 2 and "frame 4: has 64x48 pixels, the first frame 96x64" in run.stderr


def test_clear_errors(run_pe: Callable[..., Run], clip: Path, tmp_path: Path) -> None:
    def error(*arguments: object) -> str:
        run = run_pe("track", *arguments, "-o", tmp_path / "out", "--short-side", 128)
        assert run.status == 2, run
        return run.stderr

    assert all(name in error(clip) for name in ("mark what to track", "--mask", "--point", "--box"))
    assert "the position is '1,2,3'; it must be LEFT,TOP,RIGHT,BOTTOM" in error(clip, "--box", "1,2,3")
    assert "not inside the image of 96x64 pixels" in error(clip, "--box", "10,10,200,50")
    assert "the position -4,10,20,30 is not inside the image" in error(clip, "--box=-4,10,20,30")
    assert "an area" in error(clip, "--box", "10,10,10,50") and "an area" in error(clip, "--box", "50,10,10,50")
    Image.new("L", (96, 64)).save(tmp_path / "empty.png")
    assert "empty.png is empty: no pixel has an object's number" in error(clip, "--mask", tmp_path / "empty.png")
    Image.fromarray(mask()).resize((48, 32)).save(tmp_path / "small.png")
    assert "the mask has 48x32 pixels, the first frame 96x64" in error(clip, "--mask", tmp_path / "small.png")
    assert run_pe("track", clip, "--point", "0.2,0.5", "-o", tmp_path / "out", "--short-side", 64).status == 0
    assert "has masks already; choose another directory" in error(clip, "--point", "0.2,0.5")
