"""`python -m synthetic.drawings`: what it prints and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.errors import MediaDecodeError
from synthetic.drawings import prepare
from synthetic.drawings.prepare import PreparedSource
from synthetic.drawings.sources import SOURCES, DrawingSource


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path, int, int | None]]:
    """Replaces the preparing; returns its calls. `noto` has a bad drawing, `twemoji` exists."""
    called: list[tuple[str, Path, int, int | None]] = []

    def prepare_source(source: DrawingSource, out: Path, side: int, jobs: int | None, track: object) -> PreparedSource:
        called.append((source.name, out, side, jobs))
        failures = (MediaDecodeError("noto/1f408", "draws nothing"),) if source.name == "noto" else ()
        return PreparedSource(
            name=source.name,
            shard=out / f"{source.name}.tar",
            written=41,
            duplicates=3,
            failures=failures,
            finished_before=source.name == "twemoji",
        )

    monkeypatch.setattr(prepare, "prepare_source", prepare_source)
    return called


def test_all_sources_by_default(run_module, calls: list) -> None:
    run = run_module("drawings")
    assert [call[0] for call in calls] == [source.name for source in SOURCES]
    assert calls[0][1:] == (Path("datasets"), 144, None)
    assert "41" in run.stdout and "done" in run.stdout


def test_bad_drawings_are_listed_and_change_the_status(run_module, calls: list, tmp_path: Path) -> None:
    options = ("--sources", "noto", "--side", "64", "--jobs", "2")
    runs = [run_module("drawings", *out, tmp_path, *options) for out in ((), ("-o",), ("--out",))]
    assert calls == [("noto", tmp_path, 64, 2)] * 3
    assert [run.status for run in runs] == [1, 1, 1]
    assert run_module("drawings", tmp_path, "--sources", "openmoji, twemoji").status == 0


def test_an_unknown_source_is_found_before_anything_is_fetched(run_module, calls: list) -> None:
    run = run_module("drawings", "--sources", "noto,emojione")
    assert run.status == 2 and "emojione" in run.stderr
    assert calls == []
