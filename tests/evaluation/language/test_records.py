"""Answers in lines of JSON: what was written is read again, and a cut last line does no harm."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from perception_encoder.errors import DataError
from perception_encoder.evaluation.language.evaluators import AnswerRecord, read_records
from perception_encoder.formats.tables import append_json_lines


def record(number: int, **fields: object) -> AnswerRecord:
    base = {"model": "m", "digest": "d", "media": "i", "task": "vqav2", "id": str(number)}
    return AnswerRecord(**{**base, "prompt": "What?\nIn short.", "prediction": f"é {number}", **fields})


def append_records(path: Path, records: list[AnswerRecord]) -> None:
    append_json_lines(path, map(asdict, records))


def test_answers_are_added_and_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    assert read_records(path, "m", "d", "vqav2") == {}
    append_records(path, [record(1, answers=("a", "b"), score=0.3), record(2, box=(1.0, 2.0, 3.0, 4.5))])
    append_records(path, [record(1, prediction="")])  # put again; the later one counts
    records = read_records(path, "m", "d", "vqav2")
    assert records == {"1": record(1, prediction=""), "2": record(2, box=(1.0, 2.0, 3.0, 4.5))}


def test_a_last_line_that_was_cut_off_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    append_records(path, [record(1), record(2)])
    path.write_bytes(path.read_bytes()[:-10])
    assert list(read_records(path, "m", "d", "vqav2")) == ["1"]
    append_records(path, [record(3)])
    assert list(read_records(path, "m", "d", "vqav2")) == ["1", "3"]
    path.write_bytes(b'{"model": "m"')
    assert read_records(path, "m", "d", "vqav2") == {} and path.read_bytes() == b""


KNOWN = '{"model": "m", "task": "vqav2", "digest": "d", "id": "1", "prompt": "x", '


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"answers\.jsonl:2 is not JSON"),
        (KNOWN.replace("m", "n", 2) + '"prediction": "y"}', r"answers\.jsonl:2 is not an answer"),
        (KNOWN.replace('"m"', '"n"') + '"prediction": "y"}', "2: answers of the model 'n', not 'm'; give another file"),
        (KNOWN.replace("vqav2", "coco") + '"prediction": "y"}', "2: answers of the task 'coco', not 'vqav2'"),
        (KNOWN.replace('"d"', '"e"') + '"prediction": "y"}', "2: answers of 'm' with other weights or other tiles"),
        (KNOWN[:-2] + "}", "2 is not an answer: prediction is missing; remove the line"),
        (KNOWN + '"prediction": "y", "box": [1]}', "2 is not an answer: box"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "answers.jsonl"
    append_records(path, [record(1)])
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        read_records(path, "m", "d", "vqav2")
