"""`pe video-dataset assign` deals what nobody has begun."""

from __future__ import annotations

from pathlib import Path


def test_the_rest_is_dealt(run_pe, annotated: Path) -> None:
    run = run_pe("video-dataset", "assign", annotated, "--people", "ben, cleo")
    assert (run.status, run.stdout) == (0, "name\tvideos\nben\t1\ncleo\t1\n"), run.stderr


def test_people_are_needed(run_pe, annotated: Path) -> None:
    run = run_pe("video-dataset", "assign", annotated, "--people", ",")
    assert run.status == 2 and "0 people" in run.stderr
