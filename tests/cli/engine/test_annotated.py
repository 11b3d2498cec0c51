"""One workflow: raw videos are captioned, people refine captions, the captioner learns, and a dataset is released."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from perception_encoder.cli import output
from perception_encoder.datasets.pe_video import read_videos_of
from perception_encoder.video_dataset.annotation.project import AnnotationProject
from perception_encoder.video_dataset.annotation.server import create_annotation_page
from tests.cli.language.conftest import language_run
from tests.clips import clip
from tests.data.webdatasets import load_webdataset
from tests.video_data_engine.models import ECHO

__all__ = ["language_run"]


def test_from_raw_videos_to_a_refined_captioner_and_a_dataset(run_pe, language_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; install the extra train")
    videos, run = tmp_path / "videos", tmp_path / "run"
    videos.mkdir()
    for name in ("a", "b"):
        (videos / f"{name}.mp4").write_bytes(clip(60))
    prompt = tmp_path / "say.txt"  # the tiny model's context is short
    prompt.write_text("Describe it.")
    engine = ("engine", "run", "--videos", videos, "--workers", "1", "--frames", "2", "--captioned-frames", "1")
    engine += ("--video-prompt", prompt, "--frame-prompt", prompt, "--llm", ECHO)
    assert run_pe(*engine, "-o", run, "--captioner", ECHO).status == output.OK
    # the captions of the engine are counted and shown
    statistics = json.loads(run_pe("video-dataset", "stats", run, "--json").stdout)["splits"]["all"]
    assert (statistics["videos"], statistics["refined"], statistics["model_words"]["mean"]) == (2, 0, 3)
    refine = ("engine", "refine", run, "-o", tmp_path / "refined", "-m", language_run)
    assert "annotations.sqlite does not exist; correct captions with: pe annotate" in run_pe(*refine).stderr
    project = AnnotationProject(run)
    assert project.update() == 2
    project.set_double(0)
    with TestClient(create_annotation_page(project), base_url="http://localhost") as page:
        anna = {"person": "anna", "session": "tab"}
        task = page.post("/api/annotate/next", json=anna).json()["task"]
        assert task["clip"]["original"] == "frames 0 50"
        assert page.get(f"/video/{task['clip']['id']}").content == clip(60)
        edit = {"id": task["id"], "caption": "A cup falls.", "rating": 2, "sequence": 1}
        assert run_pe(*refine).stderr.endswith(f"has no finished annotation; continue with: pe annotate {run}\n")
        assert page.post("/api/annotate/submit", json={**anna, **edit}).status_code == 200
    project.close()
    # the captioner learns from the annotations, and captions again
    few = ("steps=1", "batch_size=1", "frames=2", "warmup=0", "validation=null")
    refined = run_pe(*refine, *(word for setting in few for word in ("--set", setting)))
    assert refined.status == output.OK, refined.stderr
    (line,) = map(json.loads, (tmp_path / "refined" / "conversations.jsonl").read_text().splitlines())
    assert line["id"] == task["clip"]["key"] and line["conversations"][1]["value"] == "A cup falls."
    again = run_pe(*engine, "-o", tmp_path / "again", "--captioner", tmp_path / "refined")
    assert again.status == output.OK, again.stderr
    assert pq.read_table(tmp_path / "again" / "captions.parquet").num_rows == 2
    # the refined captions are a dataset
    assert run_pe("video-dataset", "export", run, "-o", tmp_path / "pvd").status == output.OK
    records = {record.key: record for record in read_videos_of(tmp_path / "pvd")}
    first = records.pop(task["clip"]["key"])
    assert (first.refined_caption, first.refined_by, first.model_caption) == ("A cup falls.", "human", "frames 0 50")
    assert [record.refined_caption for record in records.values()] == [""]
    captions = {row["human_caption"] for row in load_webdataset(tmp_path / "pvd" / "train", tmp_path)}
    assert captions == {"", "A cup falls."}
