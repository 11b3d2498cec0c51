"""`pe eval questions`: every dataset, baselines, records and results."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from perception_encoder.cli import output
from perception_encoder.conversation import assistant as assistants
from tests.cli.evaluate.conftest import read_json
from tests.cli.language.conftest import language_run
from tests.datasets.questions.layouts import LAYOUTS, write_image
from tests.video_data_engine import servers

__all__ = ["language_run"]


@pytest.mark.parametrize(("dataset", "metric"), [("docvqa", "ANLS"), ("coco", "CIDEr")])
def test_a_dataset_is_evaluated(run_pe, language_run: Path, tmp_path: Path, dataset: str, metric: str) -> None:
    LAYOUTS[dataset](tmp_path)
    options = ("--data", tmp_path, "--tiles", "0", "-o", tmp_path / "out.json")
    run = run_pe("eval", "questions", dataset, language_run, *options)
    assert run.status == output.OK, run.stderr
    assert metric in run.stdout
    result = read_json(tmp_path / "out.json")
    assert result["model"] == language_run.name and result["about"]["tiles"] == "0"
    assert result["about"]["runtime"] == "torch" and result["about"]["precision"] in ("float32", "bfloat16")
    assert result["scores"][0]["task"] == dataset


def test_the_baseline_is_recorded(run_pe, language_run: Path, tmp_path: Path) -> None:
    LAYOUTS["docvqa"](tmp_path)
    records, out = tmp_path / "answers.jsonl", tmp_path / "out.json"
    options = ("--blind", "--items", "1", "--records", records, "-o", out)
    assert run_pe("eval", "questions", "docvqa", language_run, "--data", tmp_path, *options).status == output.OK
    assert read_json(out)["scores"][0]["method"] == "generation, no image"
    assert [json.loads(line)["id"] for line in records.read_text().splitlines()] == ["49153"]


def test_every_model_that_answers_is_asked(run_pe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint, that fails and answers without a word in between, and a function."""
    pytest.importorskip("openai")
    monkeypatch.setattr(assistants, "time", SimpleNamespace(sleep=lambda seconds: None))
    LAYOUTS["docvqa"](tmp_path)
    arguments = ("eval", "questions", "docvqa", "--data", tmp_path, "-o", tmp_path / "out.json")
    with servers.endpoint(servers.failing(500), servers.empty, servers.whole("a cup")) as (address, requests):
        run = run_pe(*arguments, "-m", f"{address}#captioner")
        assert run.status == output.OK, run.stderr
        assert len(requests) == 4 and read_json(tmp_path / "out.json")["model"] == "captioner"
        assert run_pe(*arguments, "-m", f"{address}#captioner", "--tiles", "4").status == output.ERROR
    with servers.endpoint(servers.empty) as (address, _):
        run = run_pe(*arguments, "-m", f"{address}#captioner")
        assert run.status == output.ERROR and "answered without a word" in run.stderr
    assert run_pe(*arguments, "-m", "python:tests.tiny_language_models:tiny_language_model").status == output.OK


def test_bad_input(run_pe, language_run: Path, tmp_path: Path) -> None:
    run = run_pe("eval", "questions", "textqa", language_run, "--data", tmp_path)
    assert run.status == output.ERROR and "not a known dataset; did you mean 'textvqa'?" in run.stderr
    assert run_pe("eval", "textvqa", language_run, "--data", tmp_path).status == output.ERROR  # a removed command
    run = run_pe("eval", "questions", "docvqa", language_run, "--data", tmp_path)
    assert run.status == output.ERROR and "val_v1.0_withQT.json" in run.stderr and run.stderr.count("\n") == 1
    LAYOUTS["docvqa"](tmp_path)
    write_image(tmp_path / "spdocvqa_images" / "xnbl0037_1.png", b"no image")
    run = run_pe("eval", "questions", "docvqa", language_run, "--data", tmp_path)
    assert run.status == output.ERROR and "docvqa: no question could be asked; the first: question 49153" in run.stderr
