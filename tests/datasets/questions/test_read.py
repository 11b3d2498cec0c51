"""Every dataset is read by its name, from its own layout and from the hub's; damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_encoder.datasets.questions.question import (
    Entry,
    choice_question,
    find_file,
    json_entries,
    table_entries,
)
from perception_encoder.datasets.questions.read import READERS, read_questions
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.formats.media_directory import Clip
from perception_encoder.formats.tables import TableImage
from tests.datasets.questions import layouts
from tests.datasets.questions.layouts import IMAGE, LAYOUTS, TABLES, vqav2, write_image, write_json, write_table


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path)
    questions = read_questions(name, tmp_path)
    assert len({item.id for item in questions}) == len(questions) >= 1
    for item in questions:
        assert item.answers or item.correct is not None or item.box
        assert all(not isinstance(media, Path) or media.is_file() for media in item.media)
        assert item.block


@pytest.mark.parametrize("name", TABLES)
def test_each_table_of_the_hub(name: str, tmp_path: Path) -> None:
    path, rows = TABLES[name]
    write_table(tmp_path / path, rows)
    for root in (tmp_path, (tmp_path / path).parent, tmp_path / path):
        questions = read_questions(name, root)
        assert len(questions) == sum(len(row["answer"]) if name == "refcoco" else 1 for row in rows)
        for item in questions:
            (image,) = item.media
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
    assert [item.id for item in read_questions("ai2d", tmp_path)] == ["0.png-0", "2.png-0"]
    assert [item.id for item in read_questions("ai2d", tmp_path, "train")] == ["1.png-0"]


def test_answers_in_each_form() -> None:
    for value in ("cup", ["cup"], [{"answer": "cup"}]):
        assert Entry("x", {"answers": value}).answers("answers", "label") == ("cup",)
    assert Entry("x", {"label": ["a", ""]}).answers("answers", "label") == ("a", "")


@pytest.mark.parametrize("value", [None, [], "", [""], 3, ["a", 3], [{"a": "b"}], {"a": 1}])
def test_a_missing_answer(value: object) -> None:
    with pytest.raises(DataError, match=r"a\.json: 3: `answers` is .*; a question needs at least one answer"):
        Entry("a.json: 3", {"answers": value}).answers("answers")


def test_fields_by_several_names() -> None:
    entry = Entry("x", {"questionId": 3, "query": "What?"})
    assert (entry.identity("question_id", "questionId"), entry.text("question", "query")) == ("3", "What?")
    assert entry.optional("image_id") == ""
    with pytest.raises(DataError, match="x: `label` is missing or null"):
        entry.text("label", "name")


def choice(**fields: object):
    return choice_question(
        Entry("x", fields), identity="1", question="?", media=(), choices="options", answer="answer", block="b"
    )


@pytest.mark.parametrize("answer", [1, "1", "root"])
def test_a_choice_by_index_and_text(answer: int | str) -> None:
    question = choice(options=["leaf", "root"], answer=answer)
    assert (question.choices, question.correct) == (("leaf", "root"), 1)
    assert choice(options=["1", "0"], answer="0").correct == 1  # the text counts before the index


@pytest.mark.parametrize("answer", [2, -1, "stem", None, True, "²"])
def test_an_answer_that_is_no_choice(answer: object) -> None:
    with pytest.raises(DataError, match=r"x: `answer` is .*, which is not among the choices"):
        choice(options=["leaf", "root"], answer=answer)


def test_one_choice_is_none() -> None:
    with pytest.raises(DataError, match="which is not among the choices"):
        choice(options=["leaf"], answer=0)


def test_lists_in_json(tmp_path: Path) -> None:
    (entry,) = json_entries(write_json(tmp_path / "a.json", {"data": [{"a": 1}]}), "data")
    assert entry.where.endswith("a.json: data[0]") and entry.fields == {"a": 1}
    with pytest.raises(DataError, match="must be an object with a list `data`"):
        list(json_entries(write_json(tmp_path / "a.json", [1]), "data"))
    with pytest.raises(DataError, match=r"entries\[1\] is 3"):
        list(json_entries(write_json(tmp_path / "a.json", [{}, 3])))


def test_tables_of_a_split(tmp_path: Path) -> None:
    for number in range(2):
        write_table(tmp_path / "data" / f"validation-0000{number}-of-00002.parquet", [{"a": number}])
    write_table(tmp_path / "data" / "test-00000-of-00001.parquet", [{"a": 5}])
    assert [entry.fields for entry in table_entries(tmp_path, "val")] == [{"a": 0}, {"a": 1}]
    assert [entry.fields for entry in table_entries(tmp_path, "test")] == [{"a": 5}]
    assert table_entries(tmp_path, "train") == []
    write_table(tmp_path / "other" / "test-00000-of-00001.parquet", [{"a": 6}])
    assert [entry.fields for entry in table_entries(tmp_path, "test", "other")] == [{"a": 6}]
    with pytest.raises(DataError, match=r"has tables of 'test' in .*data, .*other"):
        table_entries(tmp_path, "test")


def test_one_file_of_a_name(tmp_path: Path) -> None:
    path = write_json(tmp_path / "deep" / "er" / "a_val.json", [])
    assert find_file(tmp_path, "b_*.json", "a_*.json") == path
    write_json(tmp_path / "a_test.json", [])
    with pytest.raises(DataError, match="several files"):
        find_file(tmp_path, "a_*.json")
    with pytest.raises(DataError, match=r"has no c\.json or d\.json"):
        find_file(tmp_path, "c.json", "d.json")


def test_the_original_layout(tmp_path: Path) -> None:
    layouts.ai2d(tmp_path)
    first, labelled = read_questions("ai2d", tmp_path, "test")
    assert (first.question, first.choices, first.correct) == ("Which (0)?", ("leaf", "root", "stem"), 1)
    assert (first.media, first.block) == ((tmp_path / "images" / "0.png",), "0.png")
    assert labelled.media == (tmp_path / "abc_images" / "2.png",)  # letters stand for its labels
    (tmp_path / "abc_images" / "2.png").unlink()
    assert read_questions("ai2d", tmp_path, "test")[1].media == (tmp_path / "images" / "2.png",)


def test_what_is_missing(tmp_path: Path) -> None:
    layouts.ai2d(tmp_path)
    with pytest.raises(DataError, match="no split 'val'; known: test, train"):
        read_questions("ai2d", tmp_path, "val")
    write_json(tmp_path / "questions" / "0.png.json", {"questions": [1]})
    with pytest.raises(DataError, match=r"0\.png\.json: `questions` is \[1\]; it must be an object"):
        read_questions("ai2d", tmp_path, "test")
    write_json(
        tmp_path / "questions" / "0.png.json", {"questions": {"Which?": {"questionId": "a", "answerTexts": ["x"]}}}
    )
    with pytest.raises(DataError, match=r"0\.png\.json: questions\['Which\?'\]: `correctAnswer` is missing"):
        read_questions("ai2d", tmp_path, "test")
    (tmp_path / "ai2d_test_ids.csv").write_text("77\n")
    with pytest.raises(DataError, match="holds no question of the split 'test'"):
        read_questions("ai2d", tmp_path, "test")
    (tmp_path / "ai2d_test_ids.csv").unlink()
    with pytest.raises(DataError, match=r"has no ai2d_test_ids\.csv"):
        read_questions("ai2d", tmp_path, "test")


def test_videos_of_one_name_in_two_tasks(tmp_path: Path) -> None:
    layouts.mvbench(tmp_path)
    whole, part, frames = read_questions("mvbench", tmp_path, "test")
    assert (whole.group, whole.id, whole.correct) == ("action_antonym", "action_antonym/0", 1)
    assert whole.media == (tmp_path / "video" / "ssv2_video" / "7.mp4",)
    assert part.media == (Clip(tmp_path / "video" / "star" / "Charades_v1_480" / "7.mp4", 1.5, 3.0),)
    assert [path.name for path in frames.media] == [f"{n:05}.jpg" for n in range(4, 10)]  # seconds 1 to 3, of 3 frames
    assert frames.frames and not whole.frames and whole.block != part.block
    assert [item.group for item in read_questions("mvbench", tmp_path, "action_sequence")] == ["action_sequence"]


def test_videos_elsewhere_are_found_by_name(tmp_path: Path) -> None:
    row = {"video": "9.mp4", "question": "?", "candidates": ["a", "b"], "answer": "a"}
    write_json(tmp_path / "action_count.json", [row])
    write_image(tmp_path / "somewhere" / "9.mp4")
    (question,) = read_questions("mvbench", tmp_path, "test")
    assert question.media == (tmp_path / "somewhere" / "9.mp4",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "It sinks."}, r"action_antonym.json: \[0\]: `answer` is 'It sinks.', which is not among"),
        ({"start": -1}, "`start` is -1; it must be a number of seconds"),
        ({"end": "x"}, "`end` is 'x'"),
        ({"candidates": "a"}, "`candidates` is 'a'; it must be a list of strings"),
    ],
)
def test_bad_entries(tmp_path: Path, change: dict[str, object], message: str) -> None:
    row = {"video": "7.mp4", "question": "?", "candidates": ["a", "b"], "answer": "a"}
    write_json(tmp_path / "json" / "action_antonym.json", [{**row, **change}])
    with pytest.raises(DataError, match=message):
        read_questions("mvbench", tmp_path, "test")


def test_an_unknown_task(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no task 'val'"):
        read_questions("mvbench", tmp_path, "val")
