"""Every dataset is read by its name, from its own layout and from the hub's; damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_encoder.datasets.questions.read import READERS, read_questions
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.formats.table_images import TableImage
from tests.datasets.questions.layouts import IMAGE, LAYOUTS, TABLES, vqav2, write_table


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path)
    questions = read_questions(name, tmp_path)
    assert len({each.id for each in questions}) == len(questions) >= 1
    for each in questions:
        assert each.answers or each.correct is not None or each.box
        assert all(not isinstance(media, Path) or media.is_file() for media in each.media)
        assert each.block


@pytest.mark.parametrize("name", TABLES)
def test_each_table_of_the_hub(name: str, tmp_path: Path) -> None:
    path, rows = TABLES[name]
    write_table(tmp_path / path, rows)
    for root in (tmp_path, (tmp_path / path).parent, tmp_path / path):
        questions = read_questions(name, root)
        assert len(questions) == sum(len(row["answer"]) if name == "refcoco" else 1 for row in rows)
        for each in questions:
            (image,) = each.media
            assert isinstance(image, TableImage) and image.read() == IMAGE


def test_the_other_refcocos_are_read_too() -> None:
    assert set(READERS) == {*LAYOUTS, "refcoco+", "refcocog"}


def test_an_unknown_dataset() -> None:
    with pytest.raises(ConfigError, match="unknown dataset 'vqa'; known: vqav2, okvqa"):
        read_questions("vqa", Path())


@pytest.mark.parametrize("name", READERS)
def test_what_is_missing_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no |is not a directory"):
        read_questions(name, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty.* has no "):
        read_questions(name, tmp_path / "empty")


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("damage", ["cut", "answers", "type"])
def test_damaged_annotations_are_errors_with_the_file(name: str, damage: str, tmp_path: Path) -> None:
    """Cut a file off, take all answers away, or replace a field by a number."""
    LAYOUTS[name](tmp_path)
    for path in sorted(tmp_path.rglob("*.json")):
        text = path.read_text()
        if damage == "cut":
            damaged = text[: len(text) * 2 // 3]
        elif damage == "answers":
            damaged = text
            for field in ("answers", "label", "caption", "answer", "correctAnswer", "bbox"):
                damaged = damaged.replace(f'"{field}": ', f'"was_{field}": ')
        else:
            damaged = text
            for field in ("question_id", "questionId", "image_id", "imgname", "video", "answerTexts", "id"):
                damaged = damaged.replace(f'"{field}": ', f'"{field}": {{}}, "was_{field}": ')
        path.write_text(damaged)
    with pytest.raises(DataError, match=str(tmp_path)):
        read_questions(name, tmp_path)


def test_ids_must_differ(tmp_path: Path) -> None:
    vqav2(tmp_path)
    path = tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"
    value = json.loads(path.read_text())
    value["questions"].append(value["questions"][0])
    path.write_text(json.dumps(value))
    with pytest.raises(DataError, match="2 questions have the id '42000'"):
        read_questions("vqav2", tmp_path)


def test_the_split_that_papers_report(tmp_path: Path) -> None:
    LAYOUTS["ai2d"](tmp_path)
    assert [each.id for each in read_questions("ai2d", tmp_path)] == ["0.png-0", "2.png-0"]
    assert [each.id for each in read_questions("ai2d", tmp_path, "train")] == ["1.png-0"]
