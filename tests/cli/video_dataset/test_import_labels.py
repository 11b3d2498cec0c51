"""`pe video-dataset import` reads what Label Studio, or `export`, wrote."""

from __future__ import annotations

from pathlib import Path


def test_a_file_is_read_into_another_project(run_pe, annotated: Path, tmp_path: Path) -> None:
    labels, store = tmp_path / "l.json", tmp_path / "other.sqlite"
    assert run_pe("video-dataset", "export", annotated, "-o", labels).status == 0
    run = run_pe("video-dataset", "import", annotated, labels, "--store", store)
    assert run.stdout == "1 annotations added, 0 already there\n", run.stderr
    run = run_pe("video-dataset", "import", annotated, labels, "--store", store)
    assert run.stdout == "0 annotations added, 1 already there\n"


def test_a_bad_file(run_pe, annotated: Path, tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text("{}")
    run = run_pe("video-dataset", "import", annotated, tmp_path / "l.json")
    assert run.status == 2 and "must be a list of tasks" in run.stderr
