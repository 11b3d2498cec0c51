"""Questions about rendered scenes and documents, and how answers are scored."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from perception_encoder.datasets.questions.question import Question
from perception_encoder.errors import DataError
from perception_encoder.formats.shards import write_members
from synthetic.documents.production import DocumentsConfig, write_documents
from synthetic.questions.rendered import GROUNDING
from synthetic.questions.tasks import find_task, read_rendered
from tests.cli.evaluate.conftest import read_json
from tests.cli.language.conftest import language_run
from tests.data.tars import image_bytes


def test_scenes(tmp_path: Path) -> None:
    scene = {
        "questions": [{"type": "count", "question": "How many mugs are there?", "answer": "1"}],
        "objects": [{"kind": "mug", "box": [1, 2, 3, 4]}],
        "caption": ["a mug", "The picture shows a mug."],
    }
    content = json.dumps(scene).encode()
    members = [("a.jpg", image_bytes(1, "JPEG")), ("a.mask.png", image_bytes(0)), ("a.json", content)]
    write_members(tmp_path / "test" / "00000.tar", members)
    asked, box = read_rendered("scenes", tmp_path)
    assert (asked.id, asked.question, asked.answers, asked.group, asked.block) == (
        *("a/0", "How many mugs are there?", ("1",)),
        *("count", "a"),
    )
    assert (box.question, box.box, box.group, box.block) == ("Give the box of the mug.", (1, 2, 3, 4), GROUNDING, "a")
    assert asked.media == box.media == (members[0][1],)
    (captioned,) = read_rendered("scene captions", tmp_path)
    assert (captioned.id, captioned.question, captioned.answers) == ("a", "", ("a mug",))
    with pytest.raises(DataError, match=r"-m synthetic\.scenes"):
        read_rendered("scenes", tmp_path, "val")
    write_members(tmp_path / "val" / "00000.tar", [members[0], ("a.json", b"[]")])
    with pytest.raises(DataError, match=r"a\.json is not a JSON object"):
        read_rendered("scenes", tmp_path, "val")


def test_documents(tmp_path: Path) -> None:
    config = DocumentsConfig(count=3, split="test", size=224, kinds=("receipt",), look="clean")
    write_documents(tmp_path, config, jobs=1)
    questions = read_rendered("documents", tmp_path)
    assert Counter(question.group for question in questions)["total"] == 3
    assert len({question.block for question in questions}) == 3
    assert all(Path(str(question.media[0])).is_file() and len(question.answers) == 1 for question in questions)
    with pytest.raises(DataError, match=r"-m synthetic\.documents"):
        read_rendered("documents", tmp_path, "val")


@pytest.mark.parametrize(
    ("name", "answers", "prediction", "score"),
    [
        ("scenes", ("the mug",), "The mug.", 1),
        ("scenes", ("2",), "two cups", 0),
        ("documents", ("12",), "1", 0.5),
    ],
)
def test_scores(name: str, answers: tuple[str, ...], prediction: str, score: float) -> None:
    task, question = find_task(name), Question(id="1", question="What is it?", media=(), answers=answers)
    assert task.prompt(question) == "What is it?" and task.score is not None
    assert task.score(prediction, question, None) == pytest.approx(score)


__all__ = ["language_run"]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    write_documents(tmp_path / "documents", DocumentsConfig(count=1, split="test", size=128, kinds=("sign",)), jobs=1)
    return tmp_path / "documents"


def test_documents_are_evaluated_and_answers_recorded(
    run_module, language_run: Path, documents: Path, tmp_path: Path
) -> None:
    out, records = tmp_path / "out.json", tmp_path / "answers.jsonl"
    options = ("--data", documents, "--tiles", "0", "--items", "1", "--records", records, "-o", out)
    run = run_module("questions", "documents", language_run, *options)
    assert run.status == 0 and "ANLS" in run.stdout, run.stderr
    first = read_json(out)["scores"][0]
    assert first["task"] == "documents" and read_json(out)["split"] == "test"
    assert len(records.read_text().splitlines()) == 1
    assert run_module("questions", "documents", language_run, *options).stdout == run.stdout


def test_bad_input(run_module, language_run: Path, tmp_path: Path) -> None:
    run = run_module("questions", "rooms", language_run, "--data", tmp_path)
    assert run.status == 2 and "rooms" in run.stderr and "scene captions" in run.stderr
    run = run_module("questions", "scene-captions", language_run, "--data", tmp_path)
    assert run.status == 2 and run.stderr.count("\n") == 1
    assert "has no test/*.tar; `python -m synthetic.scenes` makes them" in run.stderr
