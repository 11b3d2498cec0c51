"""Rows of files with odd names."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.search.indexes import counts, rows_by_path

Draw = Callable[[int], Image.Image]


def test_odd_names_and_tars_are_indexed_and_forgotten(update, folder: Path, draw: Draw) -> None:
    update()
    odd = [
        os.fsdecode(name) for name in (b"it's; DROP TABLE.jpg", b"<b>&amp;.jpg", b"line\nbreak.jpg", b"\xff\xfe.jpg")
    ]
    for number, name in enumerate(odd):
        draw(50 + number).save(folder / name)
    with tarfile.open(folder / "more.tar", "w") as tar:
        tar.add(folder / "01.jpg", "inside/'one'.jpg")
    report = update()
    assert counts(report) == (4, 1, 0, 21)
    paths = set(rows_by_path(folder))
    assert {"it's; DROP TABLE.jpg", "<b>&amp;.jpg", r"line\x0abreak.jpg", r"\xff\xfe.jpg"} < paths
    assert "more.tar/inside/'one'.jpg" in paths
    for name in [*odd, "more.tar"]:
        (folder / name).unlink()
    assert counts(update()) == (0, 0, 5, 21)
    assert len(rows_by_path(folder)) == 21
