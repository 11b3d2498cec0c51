"""`pe eval segmentation`: a head on a layer, and its seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.cli import output
from tests.cli.evaluate.conftest import read_json
from tests.datasets.drawn import write_scenes

pytestmark = pytest.mark.usefixtures("colour_layers")


def test_segmentation(run_pe, tmp_path: Path) -> None:
    write_scenes(tmp_path, "train", 6, 0)
    write_scenes(tmp_path, "test", 3, 1, cut=0)
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
