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
    assert list(dict.fromkeys((score["method"], score["prompts"]) for score in written["scores"])) == [
        ("zero-shot", "name"),
        ("zero-shot", "photo"),
        ("linear probe", ""),
        ("retrieval", "name"),
    ]
