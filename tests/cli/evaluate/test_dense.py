"""`pe eval` on layers: segmentation, detection, tracking and depth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.cli import output
from perception_encoder.formats.shards import write_members
from tests.cli.evaluate.conftest import read_json
from tests.datasets.drawn import rooms, stored, write_instances, write_masks, write_yolo
from tests.evaluation.layers import discs, png, write_video

pytestmark = pytest.mark.usefixtures("colour_layers")


def test_segmentation(run_pe, tmp_path: Path) -> None:
    write_masks(tmp_path, "train", 6, 0)
    write_masks(tmp_path, "test", 3, 1, cut=0)
    run = run_pe("eval", "segmentation", "any", "--data", tmp_path, "--layer", "0", "--size", "24x32")
    assert run.status == output.SOME_SKIPPED and "mIoU" in run.stdout and "skipped test-0" in run.stderr
    arguments = ("eval", "segmentation", "any", "--data", tmp_path, "--layer", "0", "--size", "24x32", "--epochs", "2")
    for seeds in (1, 2):
        out = tmp_path / f"{seeds}.json"
        run_pe(*arguments, "--head-seeds", str(seeds), "-o", out)
        (measurement,) = read_json(out)["measurements"]
        assert measurement["settings"]["head seeds"] == str(seeds)
        assert (measurement["metrics"][0]["interval"] is None) == (seeds == 1)
        assert len(measurement["scores"]) == 2 * seeds


@pytest.mark.parametrize("write", [write_instances, write_yolo])
def test_detection(run_pe, tmp_path: Path, write: Callable[..., Path]) -> None:
    pytest.importorskip("torchvision")

    data = write(tmp_path, {"train": 2, "test": 1})
    arguments = ("eval", "detection", "any", "--data", data, "--layer", "0", "--channels", "8", "--epochs", "1")
    run = run_pe(*arguments)
    assert run.status == output.OK and "mask AP50" in run.stdout
    run = run_pe(*arguments, "--class-agnostic")
    assert run.status == output.OK and "box AP50" in run.stdout and "mask AP50" not in run.stdout


def test_tracking(run_pe, tmp_path: Path) -> None:
    write_video(tmp_path / "discs.tar", *discs(4))
    out = tmp_path / "tracking.json"
    run = run_pe("eval", "tracking", "any", "--data", tmp_path, "--layer", "0", "--short-side", "48", "-o", out)
    assert run.status == output.OK and "J&F" in run.stdout and "layer 0" in run.stdout
    (measurement,) = read_json(out)["measurements"]
    assert measurement["metrics"][0]["interval"] is None  # of one video
    assert measurement["metrics"][0]["value"] > 0.7 and measurement["settings"]["short side"] == "48"
    compared = run_pe("eval", "compare", out, out)
    assert compared.status == output.OK and "not significant" in compared.stdout


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("tracking", [], "no JPEGImages"),
        ("depth", [], "has no depth file"),
        ("segmentation", [], "has no masks/"),
        ("detection", [], "no annotations/instances_val2017.json"),
        ("tracking", ["--layer", "7"], "layer 7 does not exist; colours has layers 0 to 2"),
        ("depth", ["--size", "big"], "--size is 'big'"),
    ],
)
def test_errors_are_one_line(run_pe, tmp_path: Path, task: str, options: list[str], message: str) -> None:
    if "--layer" in options:
        write_video(tmp_path / "discs.tar", *discs(3))
    run = run_pe("eval", task, "any", "--data", tmp_path, *options)
    assert run.status == output.ERROR and message in run.stderr and run.stderr.count("\n") == 1


def test_depth(run_pe, tmp_path: Path) -> None:
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


def test_units_of_depth(run_pe, tmp_path: Path) -> None:
    depth = np.repeat([1.0, 4.0], (8, 24))[None].repeat(24, axis=0)  # a quarter is near enough to seem within 10 m
    parts = ("jpg", png(np.zeros((24, 32, 3), np.uint8))), ("depth.png", stored(5 * depth))
    write_members(tmp_path / "tum.tar", [(f"{n}.{kind}", content) for n in range(5) for kind, content in parts])
    data = "--data", tmp_path / "tum.tar"
    arguments = ("eval", "depth", "any", *data, "--layer", "0", "--channels", "8", "--epochs", "1")
    run = run_pe(*arguments, "--per-metre", "5000", "-o", tmp_path / "depth.json")
    assert run.status == output.OK and not run.stderr
    (measurement,) = read_json(tmp_path / "depth.json")["measurements"]
    assert measurement["settings"]["per metre"] == "5000" and measurement["metrics"][0]["n"] == 2
    assert "1000 units a metre, see --per-metre" in run_pe(*arguments).stderr
