"""`pe engine`: what it prints and writes, its exit statuses, and the whole workflow."""

from __future__ import annotations

import inspect
import json
import shlex
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

import perception_encoder as pe
from perception_encoder.cli import engine, output, video_dataset
from perception_encoder.datasets.pe_video import read_videos_of
from perception_encoder.errors import ConfigError, DataError
from tests.cli.language.conftest import language_run
from tests.clips import clip
from tests.data.tars import load_webdataset
from tests.language_models.test_perception_lm import perception_lm
from tests.tiny_language_models import byte_tokenizer
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


def test_usage_errors(run_engine, run_pe, tmp_path: Path) -> None:
    run = run_pe("engine", "run", "--videos", tmp_path / "none", "-o", tmp_path / "out")
    assert run.status == output.ERROR and "no such file or directory" in run.stderr
    run = run_engine("--llm", "http://127.0.0.1:8000/v1")
    assert run.status == output.ERROR and "names no model" in run.stderr
    run = run_engine("--ray", "127.0.0.1:9")
    assert run.status == output.ERROR and ("no Ray cluster answers" in run.stderr or "not installed" in run.stderr)


__all__ = ["language_run"]


def guide(heading: str) -> list[list[str]]:
    """The commands in a section of the guide, as words without `pe`."""
    page = (Path(__file__).parents[2] / "docs" / "video_engine.md").read_text(encoding="utf-8")
    block = page.partition(f"## {heading}\n")[2].partition("```\n")[2].partition("```")[0]
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines()]


def test_the_guide_from_raw_videos_to_a_refined_captioner_and_a_dataset(
    run_pe, language_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands as they stand, in a directory with `clips` and `runs/lang`; the trainings are short."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; install the extra train")
    monkeypatch.chdir(tmp_path)
    Path("clips").mkdir()
    for name in ("a", "b"):
        Path("clips", f"{name}.mp4").write_bytes(clip(60))
    Path("runs").mkdir()
    Path("runs", "lang").symlink_to(language_run)
    tasks = []

    def annotate(app: FastAPI, listener: socket.socket) -> None:
        with TestClient(app, base_url="http://localhost") as page:
            anna = {"person": "anna", "session": "tab"}
            task = page.post("/api/annotate/next", json=anna).json()["task"]
            assert page.get(f"/video/{task['clip']['id']}").content == clip(60)
            edit = {"id": task["id"], "caption": "A cup falls.", "rating": 2, "sequence": 1}
            assert page.post("/api/annotate/submit", json={**anna, **edit}).status_code == 200
            tasks.append(task["clip"])

    monkeypatch.setattr("perception_encoder.web_server.server.run_server", annotate)
    monkeypatch.setenv("PE_DTYPE", "float32")  # in which the random model's captions are the same on every machine
    # a rate at which the random model's captions stay as short as they are
    settings = ("steps=1", "warmup=0", "lr=1e-9", "batch_size=1", "frames=2", "validation=null")
    short = [word for setting in settings for word in ("--set", setting)]
    alone = ("--port", "0", "--double", "0")  # by default some videos need a second person, chosen by their paths
    added = {"annotate": alone, "refine": short, "train": ("--debug", "--set", "batch_size=2")}
    ran = {}
    for words in guide("From raw videos to a refined captioner"):
        *_, name = (word for word in words[:2] if word in {*added, "run", "stats", "progress", "export"})
        if name == "annotate":
            ran["too early"] = run_pe("engine", "refine", "captioned/", "-o", "runs/refined")
        ran[name] = run_pe(*words, *added.get(name, ()))
        assert ran[name].status == output.OK, (words, ran[name].stderr)
    assert ran["stats"].stdout.splitlines()[-1].split("\t")[:3] == ["all", "2", "0"]
    assert "annotations.sqlite does not exist; correct captions with: pe annotate" in ran["too early"].stderr
    assert "1 of 2 videos done" in ran["progress"].stderr
    # the captioner learned from the correction, and captioned again
    assert "--captioner runs/refined" in ran["refine"].stdout
    (line,) = map(json.loads, Path("runs/refined/conversations.jsonl").read_text().splitlines())
    (task,) = tasks
    assert line["id"] == task["key"] and Path("runs/refined", line["video"]).read_bytes() == clip(60)
    assert line["conversations"][1]["value"] == "A cup falls."
    assert pq.read_table("again/captions.parquet").num_rows == 2
    # the refined captions are a dataset, which an encoder learned from
    records = {record.key: record for record in read_videos_of(Path("dataset"))}
    first = records.pop(task["key"])
    assert (first.refined_caption, first.refined_by) == ("A cup falls.", "human")
    assert first.model_caption == task["original"] and [record.refined_caption for record in records.values()] == [""]
    assert "A cup falls." in {row["human_caption"] for row in load_webdataset(Path("dataset/train"), tmp_path)}
    assert Path("runs/b16/model.safetensors").is_file()


def test_what_cannot_be_refined(tmp_path: Path, language_run: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(clip(30))
    out, table = tmp_path / "out", tmp_path / "corrected.csv"
    table.write_text("video_id,human_caption\nother,a cup\n")
    with pytest.raises(DataError, match="is not an output of `pe engine run`"):
        pe.refine_captioner(tmp_path, tmp_path / "run", table, language_run)
    pe.run_engine(tmp_path / "videos", out, ECHO, workers=1, frames=2, captioned_frames=1)
    with pytest.raises(DataError, match="caption of other, but"):
        pe.refine_captioner(out, tmp_path / "run", table, language_run)
    table.write_text("video_id,human_caption\nother,\n")
    with pytest.raises(DataError, match="has no corrected caption"):
        pe.refine_captioner(out, tmp_path / "run", table, language_run)
    for other in ("http://localhost:1/v1#m", "hf:some/vlm", None):  # None: the engine's own, a function
        with pytest.raises(ConfigError, match=r"give another model to refine \(-m\)"):
            pe.refine_captioner(out, tmp_path / "run", {"a": "a cup"}, other)


def test_a_perception_lm_is_refined(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; install the extra train")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(clip(30))
    perception_lm().save_pretrained(tmp_path / "plm")
    byte_tokenizer().save_pretrained(tmp_path / "plm")
    prompt = tmp_path / "say.txt"
    prompt.write_text("Describe it.")
    settings: dict[str, Any] = {"workers": 1, "frames": 2, "captioned_frames": 1, "video_prompt": str(prompt)}
    pe.run_engine(tmp_path / "videos", tmp_path / "out", ECHO, **settings)
    (key,) = (json.loads(line)["key"] for line in (tmp_path / "out" / "journal.jsonl").read_text().splitlines()[-1:])
    settings = {"steps": 1, "batch_size": 1, "frames": 2, "warmup": 0, "validation": None, "lr": 1e-12}
    arguments = (tmp_path / "out", tmp_path / "run", {key: "A cup falls."}, tmp_path / "plm")
    path = pe.refine_captioner(*arguments, settings=settings)
    assert pe.refine_captioner(*arguments, settings=settings) == path  # repeated
    models = (path.parent, tmp_path / "plm")
    refined, before = (pe.load_assistant(name, dtype=torch.float32, runtime="torch", tiles=4) for name in models)
    image = Image.effect_noise((60, 100), 90).convert("RGB")
    assert refined.ask(image, "what?", max_tokens=9).text == before.ask(image, "what?", max_tokens=9).text


@pytest.mark.parametrize(
    ("command", "call", "others"),
    [
        (engine.run, pe.run_engine, {"json", "strict", "listener"}),
        (video_dataset.select, pe.VideoDataset.select, {"self", "data", "out", "as_json", "strict", "track"}),
        (video_dataset.import_tasks, pe.VideoDataset.import_tasks, {"self", "data", "store"}),
    ],
)
def test_a_command_has_the_arguments_and_defaults_of_its_call(
    command: Callable[..., None], call: Callable[..., object], others: set[str]
) -> None:
    options, arguments = (inspect.signature(function).parameters for function in (command, call))
    assert options.keys() - others == arguments.keys() - others
    assert all(options[name].default == arguments[name].default for name in arguments.keys() - others)
