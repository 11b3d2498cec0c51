"""What the readers of questions share."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.datasets.questions.question import (
    Entry,
    choice_question,
    find_file,
    json_entries,
    table_entries,
)
from perception_encoder.errors import DataError
from tests.datasets.questions.layouts import write_json, write_table


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
    with pytest.raises(DataError, match=r"x: `answer` is .*, none of the choices"):
        choice(options=["leaf", "root"], answer=answer)


def test_one_choice_is_none() -> None:
    with pytest.raises(DataError, match="none of the choices"):
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
