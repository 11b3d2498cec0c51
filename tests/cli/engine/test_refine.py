"""`pe engine refine`: it hands its options on, and says how to use the result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_encoder.cli import output
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.video_data_engine import refine
from tests.cli.language.conftest import language_run

__all__ = ["language_run"]


def test_options_reach_training(run_pe, language_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def train(engine: Path, captions: dict[str, str], config: LanguageConfig, out: Path, *others: object) -> Path:
        calls.append((engine.name, captions, config.steps))
        return out / "language.safetensors"

    monkeypatch.setattr(refine, "refine_captioner", train)
    engine = tmp_path / "captioned"
    engine.mkdir()
    settings = {"config": {"video_prompt": "mine.txt", "captioner": str(language_run)}, "prompts": {}, "models": {}}
    (engine / "settings.json").write_text(json.dumps({**settings, "runs": []}))
    (tmp_path / "fixed.csv").write_text("video_id,human_caption\na,a cup\n")
    arguments = ("engine", "refine", engine, "--captions", tmp_path / "fixed.csv", "-o", tmp_path / "run")
    run = run_pe(*arguments, "--set", "steps=7")  # the captioner is the engine's own
    assert run.status == output.OK and calls == [("captioned", {"a": "a cup"}, 7)], run.stderr
    assert f"--captioner {tmp_path / 'run'} --video-prompt mine.txt" in run.stdout
    assert run_pe(*arguments, "--set", "stepps=7").status == output.ERROR


def test_a_directory_that_is_not_an_engines(run_pe, language_run: Path, tmp_path: Path) -> None:
    run = run_pe("engine", "refine", tmp_path, "--captions", "x.csv", "-o", tmp_path / "run", "-m", language_run)
    assert run.status == output.ERROR and "is not an output of `pe engine run`" in run.stderr
