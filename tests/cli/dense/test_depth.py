"""`pe depth`: colour maps and 16-bit depths of images and videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.preprocess.video import read_frames
from perception_encoder.preprocess.video_file import write_video
from tests.conftest import Run


def test_images_and_videos(run_pe: Callable[..., Run], depth_head: Path, tmp_path: Path) -> None:
    media, out = tmp_path / "media", tmp_path / "out"
    media.mkdir()
    Image.new("RGB", (60, 40), (200, 30, 30)).save(media / "photo.png")
    with write_video(media / "clip.mp4", (48, 32), 4) as add:
        for level in (0, 120, 250):
            add(Image.new("RGB", (48, 32), (level, level, level)))
    run = run_pe("depth", media, "--head", depth_head, "-o", out)
    assert run.status == 0
    assert [line.split("\t")[0] for line in run.stdout.splitlines()] == [
        *(f"clip.mp4/0000{number}" for number in range(3)),
        "photo.png",
    ]
    depth = np.asarray(Image.open(out / "photo.depth.png"))
    assert depth.shape == (40, 60) and depth.dtype == np.uint16 and 1 <= depth.min() <= depth.max() <= 10_000
    with Image.open(out / "photo.png") as colours:
        assert colours.size == (60, 40) and colours.mode == "RGB"
    assert (out / "clip" / "00002.depth.png").is_file() and len(read_frames(out / "clip.mp4", frames=3).images) == 3
    printed = run.stdout.splitlines()[-1].split("\t")[1:]
    assert printed[0] == f"{depth.min() / 1000:.2f} m" and printed[2] == f"{depth.max() / 1000:.2f} m"


def test_the_built_in_head(run_pe: Callable[..., Run], tmp_path: Path) -> None:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "photo.png")
    run = run_pe("depth", tmp_path / "photo.png", "-o", tmp_path / "out")
    assert run.status == 0, run.stderr
    depth = np.asarray(Image.open(tmp_path / "out" / "photo.depth.png"))
    assert depth.shape == (256, 256) and np.median(depth) == pytest.approx(1000, abs=1)
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("photo.png")]
    assert line.split("\t")[2] == "1.00 of the median" and " m" not in line.replace(" median", "")  # it knows no metres


def test_clear_errors(run_pe: Callable[..., Run], depth_head: Path, segmenter: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (60, 40)).save(photo)
    run = run_pe("depth", photo, "--head", segmenter, "-o", tmp_path / "out")
    assert run.status == 2 and "is a head for segmentation, not for depth" in run.stderr
    run = run_pe("depth", photo, "--head", depth_head, "-m", "random:builtin", "-o", tmp_path / "out")
    assert run.status == 2 and "belongs to PE-Core-N16-128, layer 11, with weights" in run.stderr
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    run = run_pe("depth", photo, tmp_path / "bad.jpg", "--head", depth_head, "-o", tmp_path / "out", "--strict")
    assert run.status == 1 and "bad.jpg" in run.stderr and (tmp_path / "out" / "photo.png").is_file()
