"""Every script of examples/ runs, as a user runs it, and prints what it promises."""

from __future__ import annotations

import csv
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import perception_encoder as pe
from tests.clips import clip
from tests.conftest import ROOT
from tests.drawings import TEXTS, write_drawing


def run(script: str, *arguments: str | Path) -> str:
    """Run a script in a process of its own; returns what it printed."""
    command = [sys.executable, ROOT / "examples" / script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """One drawing of each kind, by name."""
    return {name: write_drawing(name, tmp_path / "images" / f"{name}.png") for name in TEXTS}


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """A directory for each class, named in words, with five sizes of its drawing."""
    for name, text in TEXTS.items():
        for side in range(100, 150, 10):
            write_drawing(name, tmp_path / "classes" / text / f"{side}.png", side)
    return tmp_path / "classes"


def test_search_my_photos(images: dict[str, Path]) -> None:
    (images["apple"].parent / "damaged.jpg").write_bytes(b"not an image")
    lines = run("search_my_photos.py", images["apple"].parent, TEXTS["apple"], "--top", "3").splitlines()
    assert len(lines) == 3 and lines[0].endswith("apple.png")


def test_tour(images: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip(4))
    lines = run("tour.py", images["apple"].parent, images["apple"], tmp_path / "clip.mp4").splitlines()
    assert len(lines) >= 10 and lines[0].startswith("similarity") and "recipes; PE-Core-G takes" in lines[-1]


def test_embed_a_dataset(images: dict[str, Path], tmp_path: Path) -> None:
    twin = write_drawing("sun", tmp_path / "images" / "twin.png", side=120)
    printed = run("embed_a_dataset.py", twin.parent, tmp_path / "vectors.parquet")
    assert "5 files, embeddings of shape (5, 256)" in printed
    assert re.search(r"most similar: \S*sun\.png and \S*twin\.png, (0\.9\d\d|1\.000)", printed)
    assert pq.read_table(tmp_path / "vectors.parquet").num_rows == 5


def test_zero_shot_classify(images: dict[str, Path]) -> None:
    printed = run("zero_shot_classify.py", *images.values(), "--labels", *TEXTS.values())
    guesses = re.findall(r"(\w+)\.png: (.+) \(\d+%\)", printed)
    assert dict(guesses) == TEXTS


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # FiftyOne's
@pytest.mark.skipif("FIFTYONE_DATABASE_URI" not in os.environ, reason="needs FiftyOne and a MongoDB")
def test_open_in_fiftyone(images: dict[str, Path], tmp_path: Path) -> None:
    fiftyone, directory = pytest.importorskip("fiftyone"), images["apple"].parent
    (directory / "clip.mp4").write_bytes(clip(200, rate=10))
    index = pe.open_index(directory, "builtin")
    index.update()
    printed = run("open_in_fiftyone.py", directory, "--name", "pe-test", "--overwrite")
    counts = dict(re.findall(r"^(\S+): (\d+) samples$", printed, re.MULTILINE))
    index.export_vectors(tmp_path / "vectors.parquet")
    rows = {(row["path"], row["start"]): row for row in pq.read_table(tmp_path / "vectors.parquet").to_pylist()}
    for name in ("pe-test", "pe-test-moments"):
        dataset = fiftyone.load_dataset(name)
        assert len(dataset) == int(counts[name]) and dataset.persistent
        for sample in dataset:
            start = sample.start if sample.has_field("start") else None
            np.testing.assert_array_equal(sample.embedding, np.array(rows.pop((sample.filepath, start))["vector"]))
        fiftyone.delete_dataset(name)
    assert not rows


def test_probe_a_layer(classes: Path) -> None:
    printed = run("probe_a_layer.py", classes, "--layers", "2", "11", "--folds", "2")
    scores = {int(layer): float(score) for layer, score in re.findall(r"layer (\d+): accuracy ([\d.]+)%", printed)}
    assert scores.keys() == {2, 11} and scores[11] > 90  # chance: 25


def test_finetune_with_lora(classes: Path, tmp_path: Path) -> None:
    printed = run("finetune_with_lora.py", classes, "--out", tmp_path / "run", "--steps", "2", "--batch-size", "8")
    before, after = (float(score) for score in re.findall(r"^(?:before|after): ([\d.]+)%", printed, re.MULTILINE))
    assert before > 90 and after > 50  # chance: 25; a run that began from random weights would be there
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert f"of {len(TEXTS)} held-out images" in printed  # one of five of each class
    table = (tmp_path / "run.csv").read_text(encoding="utf-8").splitlines()
    trained_on = [Path(row["path"]).name for row in csv.DictReader(table)]
    assert len(trained_on) == 4 * len(TEXTS) and "100.png" not in trained_on


def test_serve_and_ask_with_openai(images: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    printed = run("serve_and_ask_with_openai.py", images["apple"], *TEXTS.values(), "--port", str(port))
    scores = {text: float(score) for score, text in re.findall(r"^(-?\d\.\d{3})  (.+)$", printed, re.MULTILINE)}
    assert scores.keys() == set(TEXTS.values()) and max(scores, key=lambda text: scores[text]) == TEXTS["apple"]
