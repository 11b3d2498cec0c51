"""A weight file is hashed once, and again when it is another one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from perception_encoder.models.checkpoints.files import CachedHash

FIRST, SECOND = "0" * 16, "1" * 16


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that was written a minute ago, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights")
    os.utime(path, (time.time() - 60,) * 2)
    return path


def cached(path: Path) -> list[Path]:
    return [entry for entry in (path.parent / "cache").rglob("*") if entry.is_file()]


def test_the_second_time_nothing_is_computed(weights: Path) -> None:
    assert CachedHash(weights).get(lambda: FIRST) == FIRST
    assert CachedHash(weights).get(lambda: SECOND) == FIRST
    assert len(cached(weights)) == 1


@pytest.mark.parametrize("change", ["size", "time", "file", "path"])
def test_another_file_is_hashed_anew(weights: Path, change: str) -> None:
    CachedHash(weights).get(lambda: FIRST)
    status = weights.stat()
    if change == "size":
        weights.write_bytes(b"more weights")
    if change == "file":
        (weights.parent / "other").write_bytes(b"WEIGHTS")
        os.replace(weights.parent / "other", weights)
    if change == "path":
        weights = weights.rename(weights.parent / "moved.safetensors")
    os.utime(weights, ns=(status.st_mtime_ns, status.st_mtime_ns + (change == "time")))
    assert CachedHash(weights).get(lambda: SECOND) == SECOND


def test_a_file_that_may_still_be_written_is_not_cached(weights: Path) -> None:
    os.utime(weights)
    assert CachedHash(weights).get(lambda: FIRST) == FIRST
    assert cached(weights) == []
    before = CachedHash(weights)
    os.utime(weights, (time.time() - 30,) * 2)
    assert before.get(lambda: FIRST) == FIRST
    assert cached(weights) == []


def test_a_damaged_or_unwritable_cache_costs_time_alone(weights: Path) -> None:
    CachedHash(weights).get(lambda: FIRST)
    (entry,) = cached(weights)
    entry.write_bytes(b"\xff nonsense")
    assert CachedHash(weights).get(lambda: SECOND) == SECOND
    assert entry.read_text() == SECOND
    entry.unlink()
    entry.parent.rmdir()
    entry.parent.write_text("a file where the directory should be")
    assert CachedHash(weights).get(lambda: FIRST) == FIRST
