"""`pe eval tracking`: a table, JSON, and one-line errors of all dense tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.cli import output
from tests.cli.evaluate.conftest import read_json
from tests.evaluation.layers import discs, write_video

pytestmark = pytest.mark.usefixtures("colour_layers")


def test_tracking(run_pe, tmp_path: Path) -> None:
    write_video(tmp_path / "discs.tar", *discs(4))
    out = tmp_path / "tracking.json"
    run = run_pe("eval", "tracking", "any", "--data", tmp_path, "--layer", "0", "--short-side", "48", "-o", out)
    assert run.status == output.OK and "J&F" in run.stdout and "layer 0" in run.stdout
    (measurement,) = read_json(out)["measurements"]
    assert measurement["metrics"][0]["interval"] is None  # of one video
    assert measurement["metrics"][0]["value"] > 0.7 and measurement["settings"]["short side"] == "48"
    compared = run_pe("eval", "compare", out, out)
    assert compared.status == output.OK and "not shown" in compared.stdout


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("tracking", [], "no JPEGImages"),
        ("depth", [], "has no depth file"),
        ("segmentation", [], "no annotations/"),
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
