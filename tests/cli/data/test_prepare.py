"""`pe data prepare`: what it prints and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from perception_encoder.cli.data.prepare import app
from perception_encoder.errors import DataError, MediaDecodeError
from perception_encoder.pretraining.builtin import prepare
from perception_encoder.pretraining.builtin.prepare import PreparedSource
from perception_encoder.pretraining.builtin.sources import SOURCES, DrawingSource


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


def test_all_sources_by_default(calls: list) -> None:
    result = CliRunner().invoke(app, [])
    assert [call[0] for call in calls] == [source.name for source in SOURCES]
    assert calls[0][1:] == (Path("datasets"), 144, None)
    assert "41" in result.stdout and "done" in result.stdout


def test_bad_drawings_are_listed_and_change_the_status(calls: list, tmp_path: Path) -> None:
    options = ["--sources", "noto", "--side", "64", "--jobs", "2"]
    results = [CliRunner().invoke(app, [*out, str(tmp_path), *options]) for out in ([], ["-o"], ["--out"])]
    assert calls == [("noto", tmp_path, 64, 2)] * 3
    assert [result.exit_code for result in results] == [1, 1, 1]
    assert CliRunner().invoke(app, [str(tmp_path), "--sources", "openmoji, twemoji"]).exit_code == 0


def test_an_unknown_source_is_found_before_anything_is_fetched(calls: list) -> None:
    result = CliRunner().invoke(app, ["--sources", "noto,emojione"])
    assert isinstance(result.exception, DataError)
    assert calls == []
