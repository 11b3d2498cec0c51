"""`pe eval tracking|depth|segmentation|detection`: tables, JSON, and one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.cli import output
from perception_encoder.inference import open_model
from tests.datasets.drawn import rooms, stored, write_instances, write_scenes
from tests.evaluation.layers import ColourLayers, discs, png, write_video


@pytest.fixture(autouse=True)
def colours(monkeypatch) -> None:
    """Every model is one that sees colours."""
    encoder = ColourLayers(4, (24, 32))
    encoder.about = {"weights": "none"}
    monkeypatch.setattr(open_model, "load_layer_encoder", lambda model, final_norm=False: encoder)


def test_tracking(run_pe, tmp_path: Path) -> None:
    write_video(tmp_path / "discs.tar", *discs(4))
    out = tmp_path / "tracking.json"
    run = run_pe("eval", "tracking", "any", "--data", tmp_path, "--layer", "0", "--short-side", "48", "-o", out)
    assert run.status == output.OK and "J&F" in run.stdout and "layer 0" in run.stdout
    (found,) = json.loads(out.read_text(encoding="utf-8"))["measurements"]
    assert found["metrics"][0]["interval"] is None  # of one video
    assert found["metrics"][0]["value"] > 0.7 and found["settings"]["short side"] == "48"
    compared = run_pe("eval", "compare", out, out)
    assert compared.status == output.OK and "not shown" in compared.stdout


def test_depth_and_segmentation(run_pe, tmp_path: Path) -> None:
    from perception_encoder.formats.shards import write_members

    members = []
    for index, depth in enumerate(rooms(5, 0)):
        grey = np.repeat((40 * depth).astype(np.uint8)[..., None], 3, axis=2)
        members += [(f"{index}.jpg", png(grey)), (f"{index}.depth.png", stored(depth))]
    write_members(tmp_path / "room.tar", members)
    run = run_pe(
        *("eval", "depth", "any", "--data", tmp_path / "room.tar", "--layer", "0"),
        *("--channels", "8", "--epochs", "2"),
    )
    assert run.status == output.OK and "RMSE" in run.stdout and " m" in run.stdout
    write_scenes(tmp_path, "train", 6, 0)
    write_scenes(tmp_path, "test", 3, 1, cut=0)
    run = run_pe("eval", "segmentation", "any", "--data", tmp_path, "--layer", "0", "--size", "24x32")
    assert run.status == output.SOME_SKIPPED and "mIoU" in run.stdout and "skipped test-0" in run.stderr
    asked = ("eval", "segmentation", "any", "--data", tmp_path, "--layer", "0", "--size", "24x32", "--epochs", "2")
    for seeds in (1, 2):
        out = tmp_path / f"{seeds}.json"
        run_pe(*asked, "--head-seeds", str(seeds), "-o", out)
        (found,) = json.loads(out.read_text(encoding="utf-8"))["measurements"]
        assert found["settings"]["head seeds"] == str(seeds)
        assert (found["metrics"][0]["interval"] is None) == (seeds == 1) and len(found["scores"]) == 2 * seeds


def test_units_of_depth(run_pe, tmp_path: Path) -> None:
    from perception_encoder.formats.shards import write_members

    depth = np.repeat([1.0, 4.0], (8, 24))[None].repeat(24, axis=0)  # a quarter is near enough to seem within 10 m
    parts = ("jpg", png(np.zeros((24, 32, 3), np.uint8))), ("depth.png", stored(5 * depth))
    write_members(tmp_path / "tum.tar", [(f"{n}.{kind}", content) for n in range(5) for kind, content in parts])
    asked = ("eval", "depth", "any", "--data", tmp_path / "tum.tar", "--layer", "0", "--channels", "8", "--epochs", "1")
    run = run_pe(*asked, "--per-metre", "5000", "-o", tmp_path / "depth.json")
    assert run.status == output.OK and not run.stderr
    (found,) = json.loads((tmp_path / "depth.json").read_text(encoding="utf-8"))["measurements"]
    assert found["settings"]["per metre"] == "5000" and found["metrics"][0]["n"] == 2
    assert "1000 units a metre, see --per-metre" in run_pe(*asked).stderr


def test_detection(run_pe, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")

    place = write_instances(tmp_path, {"train": 2, "test": 1})
    asked = ("eval", "detection", "any", "--data", place, "--layer", "0", "--channels", "8", "--epochs", "1")
    run = run_pe(*asked)
    assert run.status == output.OK and "mask AP50" in run.stdout
    run = run_pe(*asked, "--any-kind")
    assert run.status == output.OK and "box AP50" in run.stdout and "mask AP50" not in run.stdout


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("tracking", [], "no JPEGImages"),
        ("depth", [], "there is no depth"),
        ("segmentation", [], "no annotations/"),
        ("detection", [], "no annotations/instances_val2017.json"),
        ("tracking", ["--layer", "7"], "layer 7 does not exist; colours has layers 0 to 2"),
        ("depth", ["--size", "big"], "--size is 'big'"),
    ],
)
def test_errors_are_one_line(run_pe, tmp_path: Path, task: str, options: list[str], said: str) -> None:
    if "--layer" in options:
        write_video(tmp_path / "discs.tar", *discs(3))
    run = run_pe("eval", task, "any", "--data", tmp_path, *options)
    assert run.status == output.ERROR and said in run.stderr and run.stderr.count("\n") == 1
