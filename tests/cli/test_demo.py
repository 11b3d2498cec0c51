"""`pe demo`: real photographs, classified and searched, on a page."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from perception_encoder.inference import samples

pytest.importorskip("skimage")


def test_demo_classifies_and_searches_real_photographs(run_pe, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    run = run_pe("demo", "--model", checkpoint, "--out", out)
    assert run.status == 0, run.stderr
    assert run.stdout.startswith(f"{len(samples.IMAGES) + 1} images and videos, embedded in 256 dimensions")
    for name in (*samples.IMAGES, samples.CLIP):
        assert Path(name).stem in run.stdout
        assert (out / "images" / name).stat().st_size > 0
    for query in samples.QUERIES:
        assert f"“{query}”" in run.stdout
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("<section>") == 1 + len(samples.QUERIES) == 6
    assert page.count("<li class") == 6 * 4
    assert "and little else" not in run.stdout
    assert "emoji, and little else" in run_pe("demo", "--out", tmp_path / "builtin").stdout


def test_without_scikit_image_the_extra_is_named(
    run_pe, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    run = run_pe("demo", "--model", checkpoint, "--out", tmp_path)
    assert run.status == 2 and "perception-encoder[demo]" in run.stderr


def test_what_cannot_be_shown_is_reported(
    run_pe, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "write_pan", lambda image, clip: clip.write_bytes(b"no clip"))
    run = run_pe("demo", "--model", checkpoint, "--out", tmp_path / "demo")
    assert run.status == 1 and "motorcycle.mp4: " in run.stderr and "1 of 11 inputs skipped" in run.stderr
