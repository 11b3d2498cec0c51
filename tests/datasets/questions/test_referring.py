"""RefCOCO's phrases and boxes, from a pickle that may hold no code, from JSON and from tables."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from perception_encoder.datasets.questions.read import read_questions
from perception_encoder.errors import DataError
from tests.datasets.questions import layouts
from tests.datasets.questions.layouts import write_json, write_table

pytestmark = pytest.mark.security


@pytest.mark.parametrize("protocol", [0, pickle.DEFAULT_PROTOCOL])
def test_the_original_layout(tmp_path: Path, protocol: int) -> None:
    layouts.refcoco(tmp_path, lambda value: pickle.dumps(value, protocol))
    first, second = read_questions("refcoco", tmp_path, "val")
    assert (first.id, first.question, second.question) == ("0", "the cup 0", "the cup 1")
    assert first.box == second.box == (6, 4, 36, 24.5)
    assert first.media == (tmp_path / "train2014" / "COCO_train2014_000000581857.jpg",)
    assert [question.id for question in read_questions("refcoco", tmp_path, "testA")] == ["10", "11"]


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self):
            return Path.write_text, (tmp_path / "ran", "x")

    layouts.refcoco(tmp_path, lambda value: pickle.dumps([*value, Bad()]))
    with pytest.raises(DataError, match=r"refs\(unc\)\.p cannot be read: it tries to load .*, which is not allowed"):
        read_questions("refcoco", tmp_path, "val")
    assert not (tmp_path / "ran").exists()


def test_a_cut_pickle(tmp_path: Path) -> None:
    layouts.refcoco(tmp_path, lambda value: pickle.dumps(value)[:100])
    with pytest.raises(DataError, match="cannot be read"):
        read_questions("refcoco", tmp_path, "val")


def test_the_hubs_table(tmp_path: Path) -> None:
    write_table(tmp_path / layouts.TABLES["refcoco"][0], layouts.TABLES["refcoco"][1])
    first, second = read_questions("refcoco", tmp_path, "val")
    assert (first.id, first.question, second.id, second.question) == ("1/0", "the cup", "1/1", "red")
    assert (first.box, first.block) == ((6, 4, 36, 24), "a.jpg")


def test_bad_entries(tmp_path: Path) -> None:
    layouts.refcoco(tmp_path)
    with pytest.raises(DataError, match="no phrase of the split 'test'; there are: testA, val"):
        read_questions("refcoco", tmp_path, "test")
    instances = tmp_path / "refcoco" / "instances.json"
    value = json.loads(instances.read_text())
    value["annotations"][0]["bbox"] = [1, 2, 0, 4]
    write_json(instances, value)
    with pytest.raises(
        DataError, match=r"annotations\[0\]: `bbox` is \[1, 2, 0, 4\]; it must be x, y, width and height"
    ):
        read_questions("refcoco", tmp_path, "val")
    write_json(instances, {**value, "annotations": []})
    with pytest.raises(DataError, match=r"refs\[0\]: image 581857 or object 100 is not in"):
        read_questions("refcoco", tmp_path, "val")
