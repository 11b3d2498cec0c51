"""Errors say what can be done, and quote nothing at length."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from perception_encoder import errors
from perception_encoder.cli import output
from perception_encoder.errors import (
    DataError,
    InputError,
    MissingExtraError,
    PerceptionEncoderError,
    one_line,
    shorten,
)

LONG = 150_000


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Make the package look installed from a place, as pip notes it; None: from an index."""

    def install(record: dict | str | None) -> None:
        class Distribution:
            def read_text(self, name: str) -> str | None:
                assert name == "direct_url.json"
                return record if record is None or isinstance(record, str) else json.dumps(record)

        monkeypatch.setattr(errors.metadata, "distribution", lambda name: Distribution())

    return install


def test_an_extra_is_installed_from_where_the_package_is_from(installed, tmp_path: Path) -> None:
    wheel = tmp_path / "my wheels" / "perception_encoder-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    installed({"url": wheel.as_uri(), "archive_info": {}})
    assert errors.install_command("search") == f"run: pip install '{wheel}[search]'"
    installed({"url": tmp_path.as_uri(), "dir_info": {}})
    assert errors.install_command("heic") == f"run: pip install '{tmp_path}[heic]'"
    installed({"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    message = str(errors.MissingExtraError("lancedb", "search"))
    assert message == f"lancedb is not installed; run: pip install -e '{tmp_path}[search]'"


@pytest.mark.parametrize(
    "record", [None, "{", "[]", {"url": "file:///no/such/place"}, {"url": "https://a.example/a.whl"}]
)
def test_without_such_a_record_it_is_the_package_s_name(installed, record: dict | str | None) -> None:
    installed(record)
    assert errors.install_command("search") == "run: pip install 'perception-encoder[search]'"


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    error = DataError(f"a.json: the caption {'x' * LONG} is of no image; remove it")
    text = str(error)
    assert len(text) < 1000 and len(repr(error)) < 1100
    assert text.startswith("a.json: the caption xxx") and text.endswith("xxx is of no image; remove it")
    assert "characters left out) …" in text
    assert shorten(text) == text and str(DataError("short")) == "short" and shorten("y" * 1000) == "y" * 1000
    assert str(PerceptionEncoderError()) == ""


def test_an_input_s_error_keeps_its_name_and_shortens_its_reason() -> None:
    error = InputError("n" * 2000, "r" * LONG)
    assert error.source == "n" * 2000 and len(error.reason) < 1000 and len(str(error)) < 1000


@pytest.mark.parametrize("error", [DataError("d" * LONG), InputError("a", "r" * LONG), MissingExtraError("m", "eval")])
def test_errors_cross_processes_as_they_are(error: PerceptionEncoderError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


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


def test_errors_of_the_system_are_short_too(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_error(OSError(36, "File name too long", "x" * LONG))
    assert len(capsys.readouterr().err) < 1100


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
