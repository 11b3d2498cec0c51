"""`pe video-dataset benchmark`: retrieval on the refined captions of `test`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.video_dataset.clips import fields, write_dataset


def test_retrieval_of_refined_captions(run_pe, tmp_path: Path) -> None:
    videos = [(f"v{n}", fields("x", human_caption=f"boat number {n}")) for n in range(3)]
    data = write_dataset(tmp_path / "clips", {"test": [[*videos, ("w", fields("x"))]]})
    options = ("-m", "builtin", "--transform", "squash", "-o", tmp_path / "r.json")
    run = run_pe("video-dataset", "benchmark", data, *options)
    assert run.status == 0 and "text to item R@1" in run.stdout, run.stderr
    (measurement,) = json.loads((tmp_path / "r.json").read_text())["measurements"]
    assert measurement["task"] == "clips test" and measurement["classes"] == 3


def test_a_dataset_without_refined_captions(run_pe, annotated: Path) -> None:
    run = run_pe("video-dataset", "benchmark", annotated, "-m", "builtin")
    assert run.status == 2 and "has no split 'test'" in run.stderr
