"""`pe engine refine`: it hands its options on, and says how to use the result."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.cli import output
from perception_encoder.video_data_engine import refine
from tests.cli.language.conftest import language_run

__all__ = ["language_run"]


def test_options_reach_training(run_pe, language_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def train(engine: Path, captions: Path, config: object, out: Path, *others: object) -> Path:
        calls.append((engine.name, captions.name, config.steps, config.decoder))
        return out / "language.safetensors"

    monkeypatch.setattr(refine, "refine_captioner", train)
    engine = tmp_path / "captioned"
    engine.mkdir()
    (engine / "settings.json").write_text('{"config": {"video_prompt": "mine.txt"}}')
    arguments = ("engine", "refine", engine, "--captions", "fixed.csv", "-o", tmp_path / "run", "-m", language_run)
    run = run_pe(*arguments, "--set", "steps=7")
    assert run.status == output.OK and calls[0][:3] == ("captioned", "fixed.csv", 7)
    assert f"--captioner {tmp_path / 'run'} --video-prompt mine.txt" in run.stdout
    assert run_pe(*arguments, "--set", "stepps=7").status == output.ERROR


def test_a_directory_that_is_not_an_engines(run_pe, language_run: Path, tmp_path: Path) -> None:
    run = run_pe("engine", "refine", tmp_path, "--captions", "x.csv", "-o", tmp_path / "run", "-m", language_run)
    assert run.status == output.ERROR and "is not an output of `pe engine run`" in run.stderr
