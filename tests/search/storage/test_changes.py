"""The difference between a folder and its index: files that cannot be listed, damaged tars, odd times."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.search.indexes import counts, rows_by_path

Draw = Callable[[int], Image.Image]


@pytest.mark.parametrize(("name", "unchanged"), [("sub", 21), ("images", 0)])
def test_what_cannot_be_listed_is_not_forgotten(
    update, folder: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch, name: str, unchanged: int
) -> None:
    (folder / "sub").mkdir()
    draw(70).save(folder / "sub" / "in.jpg")
    update()
    listdir = os.listdir

    def refuse(path: Path) -> list[str]:
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    report = update()
    assert counts(report) == (0, 0, 0, unchanged)
    assert any("cannot be listed" in str(failure) for failure in report.skipped)
    assert {"sub/in.jpg", "01.jpg"} < set(rows_by_path(folder))


def test_members_behind_a_tar_s_damage_are_not_forgotten(update, folder: Path, draw: Draw) -> None:
    with tarfile.open(folder / "more.tar", "w") as tar:
        for number in range(4):
            draw(50 + number).save(folder / "member.jpg")
            tar.add(folder / "member.jpg", f"{number}.jpg")
        at = tar.getmembers()[2].offset
    (folder / "member.jpg").unlink()
    update()
    whole, before = (folder / "more.tar").read_bytes(), rows_by_path(folder)
    for damaged in (whole[:at], whole[:at] + b"\xff" + whole[at + 1 :], whole[: at + 600], b""):
        (folder / "more.tar").write_bytes(damaged)
        report = update()
        assert report.deleted == 0 and rows_by_path(folder).keys() == before.keys()
        (failure,) = (failure for failure in report.skipped if failure.source == str(folder / "more.tar"))
        assert not damaged or f"at byte {at:,}" in failure.reason
    (folder / "more.tar").write_bytes(whole)
    report = update()
    assert report.deleted == report.added == 0 and rows_by_path(folder).keys() == before.keys()
    with tarfile.open(folder / "more.tar", "w") as tar:
        tar.add(folder / "00.jpg", "0.jpg")
    assert update().deleted == 3


def test_times_that_no_index_holds(update, folder: Path) -> None:
    times = {"00.jpg": 10_413_792_000 * 10**9, "01.jpg": 0, "02.jpg": -(10**18), "03.jpg": 2**63 - 1, "04.jpg": 2**63}
    try:
        for name, nanoseconds in times.items():
            os.utime(folder / name, ns=(0, nanoseconds))
    except OverflowError:
        pytest.skip("this file system has no such times")
    update()
    rows = rows_by_path(folder)
    assert set(times) <= set(rows)
    if (folder / "00.jpg").stat().st_mtime_ns > 2**63:  # some file systems end earlier
        assert rows["00.jpg"][0].date[:4] == "2262" and rows["00.jpg"][0].modified == 2**63 - 1
    assert rows["01.jpg"][0].date[:4] in ("1969", "1970") and rows["02.jpg"][0].date[:4] == "1938"
    assert counts(update()) == (0, 0, 0, 21)


def test_times_of_no_calendar_and_members_of_one_name(update, folder: Path, draw: Draw) -> None:
    os.utime(folder / "00.jpg", ns=(0, 2**62))
    with tarfile.open(folder / "twice.tar", "w") as tar:
        tar.add(folder / "01.jpg", "same.jpg")
        tar.add(folder / "02.jpg", "same.jpg")
    update()
    rows = rows_by_path(folder)
    (member,) = rows["twice.tar/same.jpg"]
    np.testing.assert_allclose(member.vector, rows["02.jpg"][0].vector, atol=2e-2)
    assert counts(update()) == (0, 0, 0, 22)
