"""`pe layers`: from a checkpoint to a report whose options `pe embed` takes; `pe features`: a drawing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import perception_encoder as pe
from tests.conftest import Run
from tests.evaluation.colours import write_colours

pytest.importorskip("matplotlib")


DEPTH = np.full((16, 16), 2000, np.uint16)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        broken = (1,) if split == "test" else ()
        write_colours(tmp_path / "photos" / f"{split}.tar", "toys", ["red", "green", "blue"] * 4, broken=broken)
    return tmp_path / "photos"


def test_a_report_from_a_checkpoint(
    run_pe: Callable[..., Run], checkpoint: Path, photos: Path, tmp_path: Path, image_files: list[Path]
) -> None:
    out = tmp_path / "report"
    options = ("--tasks", "retrieval", "--data", photos, "--layer", "0,-1", "--items", "12")
    done = run_pe("layers", "-m", checkpoint, *options, "-o", out)
    assert done.status == 1 and "skipped toys-1" in done.stderr and "retrieval" in done.stdout
    assert {path.name for path in out.iterdir()} >= {"report.html", "curves.png", "layers.csv", "layers.json"}
    report = json.loads((out / "layers.json").read_text(encoding="utf-8"))
    assert [model["name"] for model in report["models"]] == ["nano", "random:nano"]
    assert list(report["curves"][0]["layers"]) == ["0", "11"] and len(report["tokens"]["nano"]) == 12
    options = report["recommendations"][0]["options"].split()
    embedded = run_pe("embed", image_files[0], "--model", checkpoint, *options, "-o", tmp_path / "x.parquet")
    assert embedded.status == 0, embedded.stderr


def test_a_size_and_layers_that_are_given(
    run_pe: Callable[..., Run], checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    options = ("--tasks", "retrieval", "--data", photos, "--layer", "3", "--size", "48x64")
    done = run_pe("layers", checkpoint, *options, "--final-norm", "-o", tmp_path / "out")
    assert done.status == 1
    report = json.loads((tmp_path / "out" / "layers.json").read_text(encoding="utf-8"))
    assert {model["final norm"] for model in report["models"]} == {"last layer"}
    assert list(report["curves"][0]["layers"]) == ["3", "11"] and report["notes"] == []
    chunks = [path.read_text().splitlines() for path in (tmp_path / "out" / "features").glob("*/chunks.jsonl")]
    assert {tuple(json.loads(line)["grid"]) for lines in chunks for line in lines} == {(3, 4)}


def test_an_empty_list_of_baselines_adds_no_model(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    report = pe.analyze_layers(
        checkpoint, photos, tasks="retrieval", layer=[3], items=12, baseline=[], out=tmp_path / "out"
    )
    assert [sweep.model for sweep in report.sweeps] == ["nano"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "50", "--tasks", "retrieval"], "size 50x50 is not a multiple of the patch size 16"),
        (["--tasks", "colour"], "the task 'colour' is unknown"),
        (["--layer", "0,12", "--tasks", "retrieval"], "layer 12 does not exist; nano has layers 0 to 11"),
        (["--layer", "first"], "it must be numbers separated by commas"),
        (["--tasks", "tracking"], "tracking: "),
        (["--data", "elsewhere"], "only one dataset can be for all tasks"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, run_pe: Callable[..., Run], checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    done = run_pe("layers", checkpoint, "--data", photos, "-o", tmp_path / "out", *arguments)
    assert done.status == 2 and message in done.stderr and done.stderr.count("\n") == 1


def width(path: Path) -> int:
    with Image.open(path) as image:
        return image.width


def test_features_of_an_image(
    run_pe: Callable[..., Run], checkpoint: Path, image_files: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "x.png"
    arguments = ("features", image_files[0], "--model", checkpoint, "--out", out)
    done = run_pe(*arguments, "--layer", "0,-1")
    assert done.status == 0 and "nano: " in done.stdout and width(out) > 300
    done = run_pe(*arguments, "--baseline", "builtin")
    assert done.status == 0 and width(out) == 3 * 256 + 2 * 6
    assert done.stdout.startswith("from left to right: the image, nano layer 11, builtin layer 11")
    for options, message in (
        (["--at", "middle"], "it must be two numbers separated by a comma"),
        (["--layer", "12"], "layer 12 does not exist"),
        (["--layer", "0,1", "--baseline", "builtin"], "--baseline draws one layer of each model"),
        (["--baseline", "builtin", "-o", tmp_path / "x.gif"], "its name must end in .png"),
    ):
        wrong = run_pe(*arguments, *options)
        assert wrong.status == 2 and message in wrong.stderr
