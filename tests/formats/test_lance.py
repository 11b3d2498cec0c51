"""Panics of LanceDB are errors, and paths that it cannot take are named."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from perception_encoder.errors import MissingExtraError, OutputError
from perception_encoder.formats.lance import connect, without_panics


def test_a_panic_is_an_error_and_others_stay_what_they_are() -> None:
    class PanicException(BaseException):
        pass

    with pytest.raises(RuntimeError, match=r"^called `unwrap` on an error$"), without_panics():
        raise PanicException("called `unwrap`\non an error")
    with pytest.raises(KeyboardInterrupt), without_panics():
        raise KeyboardInterrupt


def test_tables_of_a_directory_whose_name_looks_like_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lancedb")
    monkeypatch.chdir(tmp_path)
    Path("a:b").mkdir()
    connect(Path("a:b")).create_table("rows", [{"id": 1}])
    assert (tmp_path / "a:b" / "rows.lance").is_dir()
    with pytest.raises(OutputError, match=r"caf\\xe9: a LanceDB table needs a path in UTF-8"):
        connect(Path(os.fsdecode(b"caf\xe9")))


def test_without_lancedb_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(MissingExtraError, match=r"lancedb is not installed; .*\[search\]"):
        connect(tmp_path)
