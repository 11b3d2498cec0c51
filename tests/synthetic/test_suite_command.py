"""`python -m synthetic.suite`: what it prints, writes and returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_encoder.cli import output
from perception_encoder.evaluation import embeddings
from tests.evaluation.colours import ColourEncoder, write_colours


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        write_colours(tmp_path / "photos" / f"{split}.tar", "toys", ["red", "green", "blue"])
    return tmp_path / "photos"


@pytest.fixture
def colours(monkeypatch) -> None:
    """Every model is one that sees colours."""
    monkeypatch.setattr(embeddings, "load", lambda model: ColourEncoder())


def test_results_are_printed_and_written(run_module, colours, photos: Path, tmp_path: Path) -> None:
    write_colours(tmp_path / "drawn" / "unseen" / "openmoji.tar", "openmoji", ["red heart", "green leaf"])
    out = tmp_path / "results.json"
    drawings = ("--drawings", tmp_path / "drawn")
    run = run_module("suite", "any", "--photos", photos, *drawings, "--prompts", "name, photo", "-o", out)
    assert run.status == output.OK
    assert "33.3" in run.stdout and "100.0" in run.stdout
    assert "image by name R@1" in run.stdout
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["about"]["weights"] == "colours"
    assert [(m["method"], m["prompts"]) for m in written["measurements"]] == [
        ("zero-shot", "name"),
        ("zero-shot", "name"),
        ("zero-shot", "photo"),
        ("zero-shot", "photo"),
        ("linear probe", ""),
        ("retrieval", "name"),
    ]


def test_a_broken_picture_is_listed_and_changes_the_status(run_module, colours, photos: Path) -> None:
    write_colours(photos / "test.tar", "toys", ["red", "green", "blue"], broken=[1])
    run = run_module("suite", "any", "--photos", photos)
    assert run.status == output.SOME_SKIPPED
    assert "skipped toys-1: " in run.stderr and "1 of 9 inputs skipped" in run.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--split", "dev"], "test or val"), (["--prompts", "x"], "imagenet, kinetics, actions, photo, name")],
)
def test_unknown_options_are_one_line(run_module, colours, photos: Path, options: list[str], message: str) -> None:
    run = run_module("suite", "any", "--photos", photos, *options)
    assert run.status == output.ERROR
    assert message in run.stderr and run.stderr.count("\n") == 1


def test_a_directory_of_classes_is_enough(run_module, colours, tmp_path: Path) -> None:
    from tests.evaluation.classification.test_splits import directories

    directories(tmp_path, "photos", ["red", "green", "blue"] * 10)
    run = run_module("suite", "any", "--photos", tmp_path / "photos", "-o", tmp_path / "results.json")
    assert run.status == output.OK, run.stderr
    assert "photos has no splits: 6 of its 30 items, a fifth of each class, are held out" in run.stderr
    measured = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["measurements"]
    assert {item["task"] for item in measured} == {"photos, held-out fifth"}
    assert [item["method"] for item in measured][-1] == "linear probe"
