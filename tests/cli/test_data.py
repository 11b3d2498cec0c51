"""`pe data`: what it prints and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perception_encoder.cli.data import app
from perception_encoder.errors import DataError, MediaDecodeError
from perception_encoder.pretraining.builtin import prepare
from perception_encoder.pretraining.builtin.prepare import PreparedSource
from perception_encoder.pretraining.builtin.sources import SOURCES, Source
from tests.conftest import Run
from tests.data.tars import picture


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path, int, int | None]]:
    """Replaces the preparing; returns what was asked of it. `noto` has a bad drawing, `twemoji` is done."""
    calls: list[tuple[str, Path, int, int | None]] = []

    def prepare_source(source: Source, out: Path, side: int, jobs: int | None, track: object) -> PreparedSource:
        calls.append((source.name, out, side, jobs))
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
    return calls


def test_all_sources_by_default(asked: list) -> None:
    result = CliRunner().invoke(app, ["prepare"])
    assert [call[0] for call in asked] == [source.name for source in SOURCES]
    assert asked[0][1:] == (Path("datasets"), 144, None)
    assert "41" in result.stdout and "done" in result.stdout


def test_bad_drawings_are_listed_and_change_the_status(asked: list, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["prepare", str(tmp_path), "--sources", "noto", "--side", "64", "--jobs", "2"])
    assert asked == [("noto", tmp_path, 64, 2)]
    assert result.exit_code == 1
    assert CliRunner().invoke(app, ["prepare", str(tmp_path), "--sources", "openmoji, twemoji"]).exit_code == 0


def test_an_unknown_source_is_found_before_anything_is_fetched(asked: list) -> None:
    result = CliRunner().invoke(app, ["prepare", "--sources", "noto,emojione"])
    assert isinstance(result.exception, DataError)
    assert asked == []


def test_help_has_examples() -> None:
    result = CliRunner().invoke(app, ["prepare", "--help"])
    assert "pe data prepare" in result.stdout and "openmoji" in result.stdout


def test_shards_of_a_folder(run_pe: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "in" / "cup").mkdir(parents=True)
    (tmp_path / "in" / "cup" / "1.png").write_bytes(picture(1))
    run = run_pe("data", "shards", tmp_path / "in", "-o", tmp_path / "out", "--size", "5")
    assert run.status == 0 and "1 pairs in 1 shards" in run.stdout
    (tmp_path / "in" / "cup" / "2.png").write_bytes(b"?")
    run = run_pe("data", "shards", tmp_path / "in", "-o", tmp_path / "more")
    assert run.status == 1 and "2.png" in run.stderr and "1 of 2 inputs skipped" in run.stderr
    assert run_pe("data", "shards", tmp_path / "in", "-o", tmp_path / "out").status == 2
    assert "pe data shards photos/ -o shards/" in run_pe("data", "shards", "--help").stdout
