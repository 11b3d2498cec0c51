"""`python -m synthetic.documents`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_documents_are_drawn_and_added(run_module, tmp_path: Path) -> None:
    arguments = ("documents", "-o", tmp_path, "--size", 192, "--kinds", "receipt, bar chart", "--jobs", 1)
    arguments += ("--look", "clean", "--split", "test", "--lines", 3)
    run = run_module(*arguments, "--count", 2)
    assert run.status == 0 and run.stdout.split(":")[0] == "2 documents"
    run = run_module(*arguments, "--count", 3)
    assert run.status == 0 and run.stdout.startswith("3 documents, 2 of them from an earlier run: ")
    rows = [json.loads(line) for line in (tmp_path / "test" / "words.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["kind"] for row in rows] == ["receipt", "bar chart", "receipt"]
    assert {row["look"] for row in rows} == {"clean"} and {row["split"] for row in rows} == {"test"}
    assert len(rows[0]["content"]["items"]) == len(rows[1]["content"]["categories"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "all"), "train, val, test"),
        (("--size", "33"), "from 128 to 2048"),
        (("--kinds", "receipt,letter"), "'letter'; it must be one of receipt"),
        (("--look", "old"), "clean, noise"),
        (("--kinds", "sign", "--lines", "50"), "a sign has from 1 to 5"),
    ],
)
def test_bad_settings_are_one_line(run_module, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    run = run_module("documents", "-o", tmp_path, "--jobs", 1, *arguments)
    assert run.status == 2 and message in run.stderr and run.stderr.count("\n") == 1
