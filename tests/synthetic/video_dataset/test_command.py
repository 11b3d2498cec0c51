"""`python -m synthetic.video_dataset`: a dataset that `pe video-dataset` reads."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.mark.skipif(find_spec("pybullet") is None, reason="pybullet is not installed")
def test_a_dataset_is_built_once(run_module, run_pe, tmp_path: Path) -> None:
    arguments = ("video_dataset", "-o", tmp_path / "clips", "--count", 10, "--size", 32, "--frames", 16, "--jobs", 1)
    run = run_module(*arguments)
    assert run.status == 0 and "10 videos, 8 with refined captions (simulated)" in " ".join(run.stdout.split())
    assert "all\t10\t8\t8\t2.0±0.0" in run_pe("video-dataset", "stats", tmp_path / "clips").stdout
    again = run_module(*arguments)
    assert again.status == 2 and "is not empty" in again.stderr
