"""`pe detect`: drawn images, and detections in COCO's format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.conftest import Run
from tests.datasets.drawn import described


def test_detections_in_cocos_format(run_pe: Callable[..., Run], detector: Path, tmp_path: Path) -> None:
    Image.fromarray(described(1)[1][0]).save(tmp_path / "photo.png")
    out = tmp_path / "out"
    run = run_pe("detect", tmp_path / "photo.png", "--head", detector, "--score", "0.06", "-o", out, "--json")
    assert run.status == 0
    value = json.loads((out / "detections.json").read_text())
    assert json.loads(run.stdout) == value
    assert value["images"] == [{"id": 1, "file_name": "photo", "width": 64, "height": 48}]
    assert value["categories"] == [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    assert value["annotations"] and all(each["score"] >= 0.06 for each in value["annotations"])
    for each in value["annotations"]:
        assert each["segmentation"]["size"] == [48, 64] and each["bbox"][2] > 0
    with Image.open(out / "photo.png") as drawn:
        assert drawn.size == (64, 48)
    run = run_pe("detect", tmp_path / "photo.png", "--head", detector, "--score", "1", "-o", out)
    assert (run.status, run.stdout) == (0, "")


def test_a_head_of_another_encoder_or_task(
    run_pe: Callable[..., Run], detector: Path, depth_head: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "photo.png")
    run = run_pe("detect", tmp_path / "photo.png", "--head", detector, "-m", "random:builtin", "-o", tmp_path / "out")
    assert run.status == 2 and "belongs to PE-Core-N16-128, layer 11, with weights" in run.stderr
    run = run_pe("detect", tmp_path / "photo.png", "--head", depth_head, "-o", tmp_path / "out")
    assert run.status == 2 and "is a head for depth, not for detection" in run.stderr
