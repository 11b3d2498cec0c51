"""`pe eval knn`: neighbours of many and of few images, and of a layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.cli import output
from tests.cli.evaluate.conftest import COLOURS
from tests.models.external.samples import save_transformer

pytestmark = pytest.mark.usefixtures("colour_models")


def test_neighbours(run_pe, photos: Path) -> None:
    run = run_pe("eval", "knn", "any", "--data", photos, "--split", "val", "--k", "1,5")
    assert run.status == output.OK, run.stderr
    assert "5-NN" in run.stdout and "train 30" in run.stdout


def test_the_model_with_and_without_its_flag(run_pe, photos: Path) -> None:
    options = ("--data", photos, "--split", "val", "--k", "1")
    runs = [run_pe("eval", "knn", *model, *options) for model in (("any",), ("-m", "any"), ("--model", "any"))]
    assert {(run.status, run.stdout) for run in runs} == {(output.OK, runs[0].stdout)}
    for model in ((), ("any", "-m", "any")):
        run = run_pe("eval", "knn", *model, *options)
        assert run.status == output.ERROR and "Usage: pe eval knn [OPTIONS] [-m] MODEL" in run.stderr


def test_neighbours_of_few_images(run_pe, photos: Path) -> None:
    for colour in COLOURS:
        for number in range(1, 10):
            (photos / "train" / colour / f"{number}.png").unlink()
    run = run_pe("eval", "knn", "any", "--data", photos, "--split", "val", "--k", "1")
    assert run.status == output.OK, run.stderr
    assert "train 3" in run.stdout


def test_every_probe_takes_a_vision_transformer_of_transformers(run_pe, photos: Path, tmp_path: Path) -> None:
    save_transformer("ViT", tmp_path / "vit")
    for command in (("knn", "--k", "1", "--pool", "cls"), ("linear", "--layer", "1"), ("attentive", "--epochs", "1")):
        run = run_pe("eval", command[0], f"hf:{tmp_path / 'vit'}", "--data", photos, "--split", "val", *command[1:])
        assert run.status == output.OK, run.stderr
        assert "top-1" in run.stdout and "100.0" in run.stdout
