"""`pe engine run`: what it prints and writes, its exit statuses, and how it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_encoder.cli import output
from tests.clips import clip
from tests.video_data_engine.models import ECHO


@pytest.fixture
def run_engine(run_pe, tmp_path: Path):
    """Run the engine on a directory of a good video and a bad one."""
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "good.mp4").write_bytes(clip(30))
    (videos / "bad.mp4").write_bytes(b"no video" * 9)
    models = ("--captioner", ECHO, "--frame-captioner", ECHO, "--llm", ECHO, "--workers", "1")
    return lambda *arguments: run_pe("engine", "run", "--videos", videos, "-o", tmp_path / "out", *models, *arguments)


def test_a_run_prints_its_stages_and_failures(run_engine, tmp_path: Path) -> None:
    run = run_engine()
    assert run.status == output.OK
    lines = [line.split("\t") for line in run.stdout.splitlines()]
    assert lines[0] == ["stage", "done", "failed", "seconds", "share"]
    assert [line[:3] for line in lines[1:]] == [
        ["probe", "1", "1"],
        ["frames", "1", "0"],
        ["video_caption", "1", "0"],
        ["frame_captions", "1", "0"],
        ["summary", "1", "0"],
    ]
    assert "bad.mp4: probe: is not a video" in run.stderr and "1 clips finished" in run.stderr
    assert (tmp_path / "out" / "captions.parquet").is_file()
    again = run_engine("--json", "--strict")
    report = json.loads(again.stdout)
    assert again.status == output.SOME_SKIPPED and (report["skipped"], report["clips"], report["quarantine"]) == (
        2,
        1,
        1,
    )
    assert run_engine("--frames", "4").status == output.ERROR


def test_ctrl_c_ends_a_run_that_goes_on_later(run_engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from perception_encoder.video_data_engine.journal import Journal

    add, count = Journal.add, []

    def stop(self: Journal, outcome: object) -> None:
        count.append(outcome)
        if len(count) == 3:
            raise KeyboardInterrupt
        add(self, outcome)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", stop)
        run = run_engine()
    assert run.status == output.INTERRUPTED
    assert run.stderr == "warning: stopped; rerun the same command to resume\n"
    assert run_engine().status == output.OK


def test_the_captioner_does_all_unless_others_are_named(run_pe, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip(30))
    command = ("engine", "run", "--videos", tmp_path / "a.mp4", "--workers", "1")
    assert run_pe(*command, "-o", tmp_path / "out", "--captioner", ECHO).status == output.OK
    config = json.loads((tmp_path / "out" / "settings.json").read_text())["config"]
    assert config["captioner"] == config["frame_captioner"] == config["llm"] == ECHO
    mixed = run_pe(*command, "-o", tmp_path / "mixed", "--captioner", ECHO, "--frame-captioner", "builtin-lang")
    assert mixed.status == output.ERROR and "builtin-lang is a demo model" in mixed.stderr
    assert not (tmp_path / "mixed").exists()
    unknown = run_pe(*command, "-o", tmp_path / "out2", "--captioner", "gpt")
    assert unknown.status == output.ERROR
    for form in ("facebook/Perception-LM-1B", "http://HOST/v1#MODEL", "hf:NAME", "python:MODULE:FUNCTION"):
        assert form in unknown.stderr and form in " ".join(run_pe("engine", "run", "--help").stdout.split())


def test_usage_errors(run_engine, run_pe, tmp_path: Path) -> None:
    run = run_pe("engine", "run", "--videos", tmp_path / "none", "-o", tmp_path / "out")
    assert run.status == output.ERROR and "no such file or directory" in run.stderr
    run = run_engine("--llm", "http://127.0.0.1:8000/v1")
    assert run.status == output.ERROR and "names no model" in run.stderr
    run = run_engine("--ray", "127.0.0.1:9")
    assert run.status == output.ERROR and ("no Ray cluster answers" in run.stderr or "not installed" in run.stderr)
