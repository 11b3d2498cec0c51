"""Errors say what can be done, and quote nothing at length."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_encoder.cli import output
from perception_encoder.errors import (
    DataError,
    PerceptionEncoderError,
    one_line,
    shorten,
)

LONG = 150_000


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    error = DataError(f"a.json: the caption {'x' * LONG} is of no image; remove it")
    text = str(error)
    assert len(text) < 1000 and len(repr(error)) < 1100
    assert text.startswith("a.json: the caption xxx") and text.endswith("xxx is of no image; remove it")
    assert "characters left out) …" in text
    assert shorten(text) == text and str(DataError("short")) == "short" and shorten("y" * 1000) == "y" * 1000
    assert str(PerceptionEncoderError()) == ""


@pytest.mark.parametrize(
    "content",
    [
        {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 2, "caption": "x" * LONG}]},
        {"images": [{"id": 1, "file_name": ["x" * LONG]}], "annotations": []},
        {"images": [{"id": 1, "x" * LONG: "a.jpg"}], "annotations": []},
        {"x" * LONG: 3},
    ],
    ids=["caption", "file name", "field", "name"],
)
def test_the_command_line_says_it_in_one_short_line(run_pe, tmp_path: Path, content: object) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content), encoding="utf-8")
    run = run_pe("eval", "retrieval", "builtin", "--data", tmp_path / "a.json")
    assert run.status == output.ERROR
    assert run.stderr.count("\n") == 1 and len(run.stderr) < 1100 and "a.json" in run.stderr


def test_a_foreign_error_is_told_in_one_line() -> None:
    assert one_line(OSError("broken\n  data")) == "broken data"
    assert one_line(OSError("\nbroken data\nadvice"), first=True) == "broken data"
    assert one_line(KeyError()) == "KeyError"
    assert len(one_line(OSError("x" * 500))) == 200


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.tar"), "No such file or directory: 'a.tar'"),
        (RuntimeError("<urlopen error [Errno -2] Name not known>"), "<urlopen error Name not known>"),
        (ValueError("LanceError(IO): no file, /home/runner/work/lance/src/store.rs:61:37"), "LanceError(IO): no file"),
        (RuntimeError("Exception from src/inference/src/cpp/core.cpp:92:\nbad model"), "bad model"),
        (ValueError("a b: /data/a.c is 3:4, and/or c.py"), "a b: /data/a.c is 3:4, and/or c.py"),
    ],
)
def test_neither_numbers_of_the_system_nor_other_machines_sources_are_quoted(error: Exception, text: str) -> None:
    assert one_line(error) == text
