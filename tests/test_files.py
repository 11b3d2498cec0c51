"""Files are written whole or not at all, and what goes wrong is one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from perception_encoder.errors import OutputError
from perception_encoder.files import replacing, writing


def test_replacing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "page.html"
    with replacing(target) as temporary:
        temporary.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(OutputError, match=r"page\.html could not be written: No space left on device$"),
        writing(target),
        replacing(target) as temporary,
    ):
        temporary.write_text("new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["page.html"]
