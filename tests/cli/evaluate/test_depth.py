"""`pe eval depth`: a head on a layer, and the units of depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception_encoder.cli import output
from perception_encoder.formats.shards import write_members
from tests.cli.evaluate.conftest import read_json
from tests.datasets.drawn import rooms, stored
from tests.evaluation.layers import png

pytestmark = pytest.mark.usefixtures("colour_layers")


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
    arguments = (
        "eval",
        "depth",
        "any",
        "--data",
        tmp_path / "tum.tar",
        "--layer",
        "0",
        "--channels",
        "8",
        "--epochs",
        "1",
    )
    run = run_pe(*arguments, "--per-metre", "5000", "-o", tmp_path / "depth.json")
    assert run.status == output.OK and not run.stderr
    (measurement,) = read_json(tmp_path / "depth.json")["measurements"]
    assert measurement["settings"]["per metre"] == "5000" and measurement["metrics"][0]["n"] == 2
    assert "1000 units a metre, see --per-metre" in run_pe(*arguments).stderr
