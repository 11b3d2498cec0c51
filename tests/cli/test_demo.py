"""`pe demo`: real photographs, classified and searched, on a page."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from perception_encoder.preprocess.video import read_frames
from perception_encoder.search import samples

pytest.importorskip("skimage")


def test_demo_classifies_and_searches_real_photographs(run_pe, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    run = run_pe("demo", "--model", checkpoint, "--out", out)
    assert run.status == 0, run.stderr
    assert run.stdout.startswith(f"{len(samples.PICTURES) + 1} images and videos, embedded in 256 dimensions")
    for name in (*samples.PICTURES, samples.CLIP):
        assert Path(name).stem in run.stdout
        assert (out / "pictures" / name).stat().st_size > 0
    for query in samples.QUERIES:
        assert f"“{query}”" in run.stdout
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("<section>") == 2 + len(samples.QUERIES) == 7
    assert page.count("<li class") == len(samples.PICTURES) + 1 + 6 * 4
    assert "PE-Core-L14-336" in run.stdout and "and little else" not in run.stdout
    assert "search" in run.stdout and shlex.quote(str(out / "pictures")) in run.stdout


def test_the_demo_says_how_little_the_builtin_model_knows(run_pe, tmp_path: Path) -> None:
    run = run_pe("demo", "--out", tmp_path / "demo")
    assert run.status == 0 and "emoji, and little else" in run.stdout
    assert "0.7 % among 1,000 names" in run.stdout


def test_the_clip_moves_from_left_to_right(tmp_path: Path) -> None:
    brought = samples.write_samples(tmp_path)
    frames = read_frames(brought.gallery / samples.CLIP, frames=3)
    assert frames.duration == pytest.approx(4) and frames.frame_count == 60
    assert frames.images[0].size == (480, 360)
    assert frames.images[0].tobytes() != frames.images[-1].tobytes()
    assert brought.query.parent != brought.gallery


def test_without_scikit_image_the_extra_is_named(run_pe, checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    run = run_pe("demo", "--model", checkpoint, "--out", tmp_path)
    assert run.status == 2
    assert "[demo]" in run.stderr


def test_what_cannot_be_shown_is_reported(run_pe, checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(samples, "write_pan", lambda picture, clip: clip.write_bytes(b"no clip"))
    run = run_pe("demo", "--model", checkpoint, "--out", tmp_path / "demo")
    assert run.status == 1 and "motorcycle.mp4: " in run.stderr and "1 of 11 inputs skipped" in run.stderr
