"""`pe data shards`: what it writes, and its exit statuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Run
from tests.data.tars import image_bytes


def test_shards_of_a_directory(run_pe: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "in" / "cup").mkdir(parents=True)
    (tmp_path / "in" / "cup" / "1.png").write_bytes(image_bytes(1))
    run = run_pe("data", "shards", tmp_path / "in", "-o", tmp_path / "out", "--size", "5")
    assert run.status == 0 and "1 pairs in 1 shards" in run.stdout
    (tmp_path / "in" / "cup" / "2.png").write_bytes(b"?")
    run = run_pe("data", "shards", tmp_path / "in", "-o", tmp_path / "more")
    assert run.status == 1 and "2.png" in run.stderr and "1 of 2 inputs skipped" in run.stderr
    assert run_pe("data", "shards", tmp_path / "in", "-o", tmp_path / "out").status == 2
    assert "pe data shards photos/ -o shards/" in run_pe("data", "shards", "--help").stdout
