"""Questions about rendered scenes and documents, and how answers are scored."""

from __future__ import annotations

from pathlib import Path

import pytest

from synthetic.documents.production import DocumentsConfig, write_documents
from tests.cli.evaluate.conftest import read_json
from tests.cli.language.conftest import language_run

__all__ = ["language_run"]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    write_documents(tmp_path / "documents", DocumentsConfig(count=1, split="test", size=128, kinds=("sign",)), jobs=1)
    return tmp_path / "documents"


def test_documents_are_evaluated_and_answers_recorded(
    run_module, language_run: Path, documents: Path, tmp_path: Path
) -> None:
    out, records = tmp_path / "out.json", tmp_path / "answers.jsonl"
    options = ("--data", documents, "--tiles", "0", "--items", "1", "--records", records, "-o", out)
    run = run_module("questions", "documents", language_run, *options)
    assert run.status == 0 and "ANLS" in run.stdout, run.stderr
    first = read_json(out)["scores"][0]
    assert first["task"] == "documents" and read_json(out)["split"] == "test"
    assert len(records.read_text().splitlines()) == 1
    assert run_module("questions", "documents", language_run, *options).stdout == run.stdout


def test_bad_input(run_module, language_run: Path, tmp_path: Path) -> None:
    run = run_module("questions", "rooms", language_run, "--data", tmp_path)
    assert run.status == 2 and "rooms" in run.stderr and "scene captions" in run.stderr
    run = run_module("questions", "scene-captions", language_run, "--data", tmp_path)
    assert run.status == 2 and run.stderr.count("\n") == 1
    assert "has no test/*.tar; `python -m synthetic.scenes` makes them" in run.stderr
