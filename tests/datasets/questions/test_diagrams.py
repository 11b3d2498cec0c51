"""AI2D in its original layout and in the hub's."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.datasets.questions.diagrams import read_ai2d
from perception_encoder.errors import DataError
from tests.datasets.questions import layouts
from tests.datasets.questions.layouts import write_json, write_table


def test_the_original_layout(tmp_path: Path) -> None:
    layouts.ai2d(tmp_path)
    first, labelled = read_ai2d(tmp_path, "test")
    assert (first.question, first.choices, first.correct) == ("Which (0)?", ("leaf", "root", "stem"), 1)
    assert (first.media, first.block) == ((tmp_path / "images" / "0.png",), "0.png")
    assert labelled.media == (tmp_path / "abc_images" / "2.png",)  # letters stand for its labels
    assert len(read_ai2d(tmp_path, "all")) == 3
    (tmp_path / "abc_images" / "2.png").unlink()
    assert read_ai2d(tmp_path, "test")[1].media == (tmp_path / "images" / "2.png",)


def test_the_hubs_table(tmp_path: Path) -> None:
    write_table(tmp_path / layouts.TABLES["ai2d"][0], layouts.TABLES["ai2d"][1])
    (question,) = read_ai2d(tmp_path, "test")
    assert (question.id, question.choices, question.correct) == ("0", ("leaf", "root"), 1)


def test_what_is_missing(tmp_path: Path) -> None:
    layouts.ai2d(tmp_path)
    with pytest.raises(DataError, match="no split 'val'; known: test, train, all"):
        read_ai2d(tmp_path, "val")
    write_json(tmp_path / "questions" / "0.png.json", {"questions": [1]})
    with pytest.raises(DataError, match=r"0\.png\.json: `questions` is \[1\]; it must be an object"):
        read_ai2d(tmp_path, "test")
    write_json(
        tmp_path / "questions" / "0.png.json", {"questions": {"Which?": {"questionId": "a", "answerTexts": ["x"]}}}
    )
    with pytest.raises(DataError, match=r"0\.png\.json: questions\['Which\?'\]: `correctAnswer` is missing"):
        read_ai2d(tmp_path, "test")
    (tmp_path / "ai2d_test_ids.csv").write_text("77\n")
    with pytest.raises(DataError, match="holds no question of the split 'test'"):
        read_ai2d(tmp_path, "test")
    (tmp_path / "ai2d_test_ids.csv").unlink()
    with pytest.raises(DataError, match=r"has no ai2d_test_ids\.csv"):
        read_ai2d(tmp_path, "test")
