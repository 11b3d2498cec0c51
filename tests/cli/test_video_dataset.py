"""`pe annotate` and `pe video-dataset`."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from perception_encoder.datasets.pe_video import read_videos_of
from perception_encoder.formats.shards import json_bytes, write_members
from perception_encoder.formats.tables import read_table
from perception_encoder.video_dataset.annotation.progress import Agreement
from perception_encoder.video_dataset.annotation.project import AnnotationProject
from perception_encoder.video_dataset.annotation.work import Edit, next_task, submit
from perception_encoder.video_dataset.selection import CATEGORIES
from perception_encoder.video_dataset.tables import read_video_table, write_video_table
from tests.video_dataset.clips import fields, short_clip, small_dataset, write_dataset


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    data = small_dataset(tmp_path / "clips")
    project = AnnotationProject(data)
    project.update()
    project.set_double(0)
    task = next_task(project, "anna", "tab")
    submit(project, "anna", task.id, Edit(caption="A boat.", rating=3, seconds=60, session="tab", sequence=1))
    project.close()
    return data


@pytest.fixture
def apps(monkeypatch: pytest.MonkeyPatch) -> list[FastAPI]:
    """The pages that were served, in order; serving ends at once."""
    apps: list[FastAPI] = []

    def serve(app: FastAPI, listener: socket.socket) -> None:
        with TestClient(app, base_url="http://localhost", follow_redirects=False) as client:
            app.state.answer = client.get("/")
        apps.append(app)

    monkeypatch.setattr("perception_encoder.web_server.server.run_server", serve)
    return apps


def test_the_page_opens_on_this_machine(run_pe, apps: list[FastAPI], tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "clips")
    store = tmp_path / "own.sqlite"
    run = run_pe("annotate", data, "--port", "0", "--store", store, "--double", "1")
    assert re.fullmatch(rf"3 videos of {re.escape(str(data))} at http://127\.0\.0\.1:\d+\n", run.stdout), run.stderr
    assert apps[0].state.answer.status_code == 200 and store.is_file() and not (data / "annotations.sqlite").exists()


@pytest.mark.security
def test_the_page_for_the_network_has_a_key(run_pe, apps: list[FastAPI], tmp_path: Path) -> None:
    run = run_pe("annotate", small_dataset(tmp_path), "--port", "0", "--lan")
    assert re.search(r"at http://[\w.-]+:\d+/\?key=[\w-]{22}\n", run.stdout), run.stderr
    assert apps[0].state.answer.status_code == 401


def test_a_given_key_is_needed_on_this_machine_too(run_pe, apps: list[FastAPI], tmp_path: Path) -> None:
    run = run_pe("annotate", small_dataset(tmp_path), "--port", "0", "--key", "a secret")  # behind a reverse proxy
    assert re.search(r"at http://127\.0\.0\.1:\d+/\?key=a%20secret\n", run.stdout), run.stderr
    assert apps[0].state.answer.status_code == 401
    with TestClient(apps[0], base_url="http://localhost") as client:
        assert client.get("/static/page.css").status_code == 401
        client.get("/", params={"key": "a secret"}, follow_redirects=False)  # which sets a cookie
        assert client.get("/static/page.css").status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "0.0.0.0"), "set a --key"),
        (("--key", ""), "the key is empty"),
        (("--double", "2"), "must be from 0 to 1"),
    ],
)
def test_bad_options(run_pe, apps: list[FastAPI], tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    run = run_pe("annotate", small_dataset(tmp_path), "--port", "0", *arguments)
    assert run.status == 2 and message in run.stderr and not apps


def test_categories_are_those_of_the_benchmark(run_pe, tmp_path: Path) -> None:
    trained = [("a", fields("one", human_caption="one two three", category_name="Animals"))]
    tested = [("b", fields("one", human_caption="one two")), ("c", fields("one two three"))]
    data = write_dataset(tmp_path, {"train": [trained], "test": [tested]})
    rows = run_pe("video-dataset", "stats", data).stdout.splitlines()
    assert rows[2].split("\t") == ["test", "2", "1", "0", "2.0±0.0", "0.0", "2.0±1.0", "2.0±0.0"]
    assert rows[-2:] == ["category (test)\trefined\twords", "Water Scenes\t1\t2.0"]  # without those of train
    assert run_pe("video-dataset", "stats", data, "--split", "train").stdout.splitlines()[-1] == "Animals\t1\t3.0"
    assert len(run_pe("video-dataset", "stats", data, "--split", "all").stdout.splitlines()) == len(rows) + 1
    assert "it has train, test, all" in run_pe("video-dataset", "stats", data, "--split", "val").stderr
    assert json.loads(run_pe("video-dataset", "stats", data, "--json").stdout)["splits"]["all"]["videos"] == 3
    alone = run_pe("video-dataset", "stats", data / "train").stdout.splitlines()
    assert alone[-2].startswith("category (all)")  # without a benchmark


def test_a_row_for_each_video_of_a_split(run_pe, tmp_path: Path) -> None:
    splits = {"train": [[("a", fields("model a"))]], "test": [[("b", fields("model b", human_caption="person b"))]]}
    data = write_dataset(tmp_path / "data", splits)
    run = run_pe("video-dataset", "stats", data, "-o", tmp_path / "v.parquet")
    assert run.status == 0 and "2 videos" in run.stderr, run.stderr
    rows = read_table(tmp_path / "v.parquet")
    assert [row["key"] for row in rows] == ["train/a", "test/b"] and rows[1]["refined_by"] == "human"
    assert run_pe("video-dataset", "stats", data, "--split", "test", "-o", tmp_path / "v.csv").status == 0
    assert [row["refined_caption"] for row in read_table(tmp_path / "v.csv")] == ["person b"]
    assert run_pe("video-dataset", "stats", data, "--split", "all", "-o", tmp_path / "all.parquet").status == 0
    assert read_table(tmp_path / "all.parquet") == rows
    run = run_pe("video-dataset", "stats", data, "-o", tmp_path / "v")
    assert run.status == 2 and "ends in .parquet or .csv" in run.stderr


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Path, Path]:
    """A dataset of 24 videos, and hand scores that grow with their length."""
    data, table = tmp_path / "clips", tmp_path / "hand.csv"
    videos = [((f"v{n}.mp4", short_clip(8 + n)), (f"v{n}.json", json_bytes(fields("x")))) for n in range(24)]
    write_members(data / "train" / "0.tar", [member for video in videos for member in video])
    table.write_text("key,score\n" + "".join(f"train/v{n},{n / 5}\n" for n in range(24)))
    return data, table


def test_a_selection_by_hand_scores(run_pe, scored: tuple[Path, Path], tmp_path: Path) -> None:
    data, table = scored
    write_members(data / "train" / "1.tar", [("bad.mp4", b"none" * 100), ("bad.json", json_bytes({}))])
    command = ("video-dataset", "select", data, "--hand-scores", table, "-m", "builtin")
    out = tmp_path / "selection.csv"
    run = run_pe(*command, "-o", out, "--strict")
    assert run.status == 1 and "1 of 25 inputs skipped" in run.stderr, run.stderr
    assert "scores, out of bag on 24 hand scores: mean error" in run.stdout and "motion_frames\t" in run.stdout
    selected = read_video_table(out)
    assert f"{len(selected)} of 24 videos selected" in run.stdout
    assert {row["category"] for row in selected.values()} <= CATEGORIES.keys()
    stamps = {path: path.stat().st_mtime_ns for path in (data / "features").iterdir()}
    run = run_pe(*command, "-o", out, "--count", "1", "--json")
    assert json.loads(run.stdout)["selected"] == 1 and json.loads(run.stdout)["forest"]["videos"] == 24
    assert {path: path.stat().st_mtime_ns for path in (data / "features").iterdir()} == stamps
    run = run_pe("video-dataset", "export", data, "-o", tmp_path / "chosen", "--selection", out)
    assert run.status == 0, run.stderr
    (record,) = read_videos_of(tmp_path / "chosen")
    assert record.category in CATEGORIES and 0 <= record.metadata["interest_score"] <= 5


def test_what_cannot_be_selected(run_pe, scored: tuple[Path, Path], tmp_path: Path) -> None:
    data, table = scored
    command = ("video-dataset", "select", data, "-m", "builtin", "--hand-scores", table)
    run = run_pe(*command, "-o", tmp_path / "selection")
    assert run.status == 2 and "ends in .parquet or .csv" in run.stderr
    run = run_pe(*command, "-o", tmp_path / "s.csv", "--ask-model", "nobody")
    assert run.status == 2 and "no language model is called 'nobody'" in run.stderr
    assert not (data / "features").exists()


def test_progress(run_pe, annotated: Path) -> None:
    run = run_pe("video-dataset", "progress", annotated)
    assert run.stdout == "name\tdone\tseconds each\tskipped\treviewed\nanna\t1\t60\t0\t0\n"
    assert "1 of 3 videos done, 0 begun, 0 skipped, 0 reviewed; about 0.0 hours of work left" in run.stderr
    state = json.loads(run_pe("video-dataset", "progress", annotated, "--json").stdout)
    assert (state["videos"], state["done"], state["agreement"]["videos"]) == (3, 1, 0)
    agreement = Agreement(videos=2, similarity=0.5, ratings=None)
    assert str(agreement) == "agreement on 2 videos: words in common 0.50"


def test_tars(run_pe, annotated: Path, tmp_path: Path) -> None:
    run = run_pe("video-dataset", "export", annotated, "-o", tmp_path / "out")
    assert run.status == 0 and "3 videos, 1 with refined captions" in run.stdout
    assert [record.refined_caption for record in read_videos_of(tmp_path / "out")] == ["A boat.", "", ""]
    run = run_pe("video-dataset", "export", annotated, "-o", tmp_path / "few", "--refined-only")
    assert "1 videos, 1 with refined captions" in run.stdout


def test_an_export_without_videos_is_an_error(run_pe, tmp_path: Path) -> None:
    data, out, table = small_dataset(tmp_path / "clips"), tmp_path / "out", tmp_path / "selection.csv"
    run = run_pe("video-dataset", "export", data, "-o", out, "--refined-only")
    assert run.status == 2 and f"no video with a refined caption; continue with: pe annotate {data}" in run.stderr
    write_video_table(table, [{"key": "train/other", "score": 1.0}])
    run = run_pe("video-dataset", "export", data, "-o", out, "--selection", table)
    assert run.status == 2 and "no video in the selection" in run.stderr and not out.exists()


DIES = """
import os, sys
from perception_encoder.cli.main import main
from perception_encoder.video_dataset import tables

write = tables.write_members
tables.write_members = lambda path, members: (write(path, members), os._exit(9))
sys.argv[0] = "pe"
main()
"""


def test_an_export_that_was_killed_is_repeated(run_pe, tmp_path: Path) -> None:
    splits = {split: [[(f"{split}{n}", fields("A boat.")) for n in range(2)]] for split in ("train", "test")}
    data, out = write_dataset(tmp_path / "data", splits), tmp_path / "out"
    export = ("video-dataset", "export", data, "-o")
    killed = subprocess.run([sys.executable, "-c", DIES, *map(str, export), str(out)], check=False)
    assert killed.returncode == 9 and list(tmp_path.glob(".out.*/train/*.tar")) and not out.exists()
    for path in (out, tmp_path / "whole"):
        run = run_pe(*export, path)
        assert run.status == 0, run.stderr
    written = {item.relative_to(out): item.read_bytes() for item in out.rglob("*") if item.is_file()}
    assert len(written) == 2 and not [item for item in tmp_path.iterdir() if item.name.startswith(".")]
    assert all((tmp_path / "whole" / path).read_bytes() == content for path, content in written.items())
    run = run_pe(*export, out)
    assert run.status == 2 and "exists and is not empty" in run.stderr


def test_a_score_that_is_no_number(run_pe, annotated: Path, tmp_path: Path) -> None:
    write_video_table(tmp_path / "bad.csv", [{"key": "train/v1", "score": "high"}])
    run = run_pe("video-dataset", "export", annotated, "-o", tmp_path / "bad", "--selection", tmp_path / "bad.csv")
    assert run.status == 2 and "the score of train/v1 is 'high'; it must be a number" in run.stderr


def test_label_studio(run_pe, annotated: Path, tmp_path: Path) -> None:
    labels, store = tmp_path / "l.json", tmp_path / "other.sqlite"
    run = run_pe("video-dataset", "export", annotated, "-o", labels, "--video-prefix", "/files/")
    assert run.status == 0 and '<Video name="video" value="$video"/>' in run.stdout
    assert json.loads(labels.read_text())[0]["data"]["video"] == "/files/v0.mp4"
    for added, known in ((1, 0), (0, 1)):
        run = run_pe("video-dataset", "import", annotated, labels, "--store", store)
        assert run.stdout == f"{added} annotations added, {known} already there\n", run.stderr


def test_retrieval_of_refined_captions(run_pe, tmp_path: Path) -> None:
    """`pe eval retrieval` evaluates on PVD-Bench."""
    videos = [(f"v{n}", fields("x", human_caption=f"boat number {n}")) for n in range(3)]
    data = write_dataset(tmp_path / "clips", {"test": [[*videos, ("w", fields("x"))]], "train": [[("t", fields("x"))]]})
    command = ("eval", "retrieval", "-m", "builtin", "--data", data, "--transform", "squash")
    run = run_pe(*command, "-o", tmp_path / "r.json")
    assert run.status == 0 and "text to item R@1" in run.stdout, run.stderr
    first = json.loads((tmp_path / "r.json").read_text())["scores"][0]
    assert first["task"] == "clips test" and first["classes"] == 3
    run = run_pe(*command, "--split", "train")
    assert run.status == 2 and "0 videos of train have a refined caption" in run.stderr
