"""Datasets of documents on disk: LLaVA's rows, the same bytes with any number of processes, and resuming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.errors import OutputError
from synthetic.documents.production import DocumentsConfig, image_path, write_documents
from tests.conftest import ROOT

CONFIG = DocumentsConfig(count=20, size=192, seed=4)


def read_all(directory: Path) -> dict[str, bytes]:
    names = (path.relative_to(directory).as_posix() for path in sorted(directory.rglob("*")) if path.is_file())
    return {name: (directory / name).read_bytes() for name in names}


def rows_of(directory: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (directory / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = write_documents(tmp_path_factory.mktemp("documents"), CONFIG, jobs=1)
    assert (written.documents, written.before) == (20, 0)
    return written.directory


def test_rows_are_llavas_and_agree_with_the_words(directory: Path) -> None:
    conversations, words = rows_of(directory, "conversations.jsonl"), rows_of(directory, "words.jsonl")
    assert len(conversations) == len(words) == 20 and len({row["id"] for row in words}) == 20
    for number, (talk, facts) in enumerate(zip(conversations, words, strict=True)):
        assert talk.keys() == {"id", "image", "conversations"}
        assert talk["id"] == facts["id"] and talk["image"] == facts["image"] == image_path(number)
        turns = talk["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert [number for number, turn in enumerate(turns) if "<image>" in turn["value"]] == [0]
        asked = [
            (turn["value"].removeprefix("<image>\n"), answer["value"])
            for turn, answer in zip(turns[::2], turns[1::2], strict=True)
        ]
        assert asked == [(question["question"], question["answer"]) for question in facts["questions"]]
        drawn = CONFIG.draw(number)
        assert [(word["text"], tuple(word["box"])) for word in facts["words"]] == drawn.words
        assert facts["content"] == json.loads(json.dumps(drawn.content)) and facts["layout"] == drawn.layout
        with Image.open(directory / talk["image"]) as image:
            assert image.size == (facts["width"], facts["height"]) == (192, 192)


@pytest.mark.usefixtures("warm_pools")
def test_bytes_do_not_depend_on_processes(directory: Path, tmp_path: Path) -> None:
    write_documents(tmp_path, CONFIG, jobs=2)
    assert read_all(tmp_path / "train") == read_all(directory)


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_run_goes_on(directory: Path, tmp_path: Path) -> None:
    arguments = ["-o", tmp_path, "--count", 20, "--size", 192, "--seed", 4, "--jobs", 1]
    command = [sys.executable, "-m", "synthetic.documents", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        table = tmp_path / "train" / "words.jsonl"
        deadline = time.monotonic() + 60
        while not table.exists() or not table.stat().st_size:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert 0 < write_documents(tmp_path, CONFIG, jobs=1).before <= 20
    assert read_all(tmp_path / "train") == read_all(directory)


def test_other_settings_and_other_files_are_left_alone(directory: Path, tmp_path: Path) -> None:
    before = read_all(directory)
    with pytest.raises(OutputError, match="documents of other settings; choose another directory"):
        write_documents(directory.parent, DocumentsConfig(**{**vars(CONFIG), "seed": 5}), jobs=1)
    assert read_all(directory) == before
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="is not empty and has no documents"):
        write_documents(tmp_path, CONFIG, jobs=1)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="could not be written"):
        write_documents(tmp_path / "file", CONFIG, jobs=1)
