"""Published weights come from the hub's cache or are downloaded; a weight file is hashed again only if it changes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import pytest

from perception_encoder.models.checkpoints import files
from perception_encoder.models.checkpoints.files import CachedHash
from perception_encoder.models.checkpoints.find import fetch_weights
from perception_encoder.models.registry import find_model

L14 = find_model("PE-Core-L14-336")
FIRST, SECOND = "0" * 16, "1" * 16
FETCH = """
import time
from perception_encoder.errors import WeightsUnavailableError
from perception_encoder.models.checkpoints.find import fetch_weights
from perception_encoder.models.registry import find_model
start = time.monotonic()
try:
    fetch_weights(find_model("PE-Core-L14-336"))
except WeightsUnavailableError as error:
    print(time.monotonic() - start)
    print(error)
"""


@contextmanager
def endpoint(answering: bool) -> Iterator[str]:
    """The address of a port that is closed, or that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        if answering:
            yield address
    if not answering:
        yield address


@pytest.mark.parametrize("answering", [False, True], ids=["closed", "silent"])
def test_a_hub_that_cannot_be_reached_is_one_line_within_three_seconds(answering: bool, tmp_path: Path) -> None:
    with endpoint(answering) as address:
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", FETCH], capture_output=True, text=True, timeout=120, env=environment
        )
    seconds, *message = done.stdout.splitlines()
    assert float(seconds) < 3 and done.stderr == ""
    (line,) = message
    assert f"download {address}/facebook/PE-Core-L14-336/resolve/main/PE-Core-L14-336.pt elsewhere" in line
    assert "give the path DIRECTORY/PE-Core-L14-336.pt" in line and "--model" not in line


def test_a_cached_file_is_taken_without_asking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, file: str(tmp_path / file))
    assert fetch_weights(L14) == tmp_path / "PE-Core-L14-336.pt"


@pytest.fixture
def weight_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as written long ago, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "_SETTLED", 0)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights")
    return path


def cached(path: Path) -> list[Path]:
    return [entry for entry in (path.parent / "cache").rglob("*") if entry.is_file()]


@pytest.mark.parametrize("change", ["size", "time", "file", "path", "content"])
def test_another_file_is_hashed_anew(weight_file: Path, change: str) -> None:
    CachedHash(weight_file).get(lambda: FIRST)
    status = weight_file.stat()
    if change == "size":
        weight_file.write_bytes(b"more weights")
    if change == "file":
        (weight_file.parent / "other").write_bytes(b"WEIGHTS")
        os.replace(weight_file.parent / "other", weight_file)
    if change == "content":  # in place, and the time set back
        time.sleep(0.02)  # a tick of the file system's clock
        weight_file.write_bytes(b"WEIGHTS")
    if change == "path":
        weight_file = weight_file.rename(weight_file.parent / "moved.safetensors")
    os.utime(weight_file, ns=(status.st_mtime_ns, status.st_mtime_ns + (change == "time")))
    assert CachedHash(weight_file).get(lambda: SECOND) == SECOND


def test_a_file_that_may_still_be_written_is_not_cached(weight_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "_SETTLED", 60_000_000_000)
        os.utime(weight_file, (1e9, 1e9))  # its time of modification can be anything
        assert CachedHash(weight_file).get(lambda: FIRST) == FIRST
        assert cached(weight_file) == []
    before = CachedHash(weight_file)
    os.utime(weight_file, (time.time() - 30,) * 2)
    assert before.get(lambda: FIRST) == FIRST
    assert cached(weight_file) == []


def test_a_damaged_or_unwritable_cache_costs_time_alone(weight_file: Path) -> None:
    CachedHash(weight_file).get(lambda: FIRST)
    (entry,) = cached(weight_file)
    entry.write_bytes(b"\xff nonsense")
    assert CachedHash(weight_file).get(lambda: SECOND) == SECOND
    assert entry.read_text() == SECOND
    entry.unlink()
    entry.parent.rmdir()
    entry.parent.write_text("a file where the directory should be")
    assert CachedHash(weight_file).get(lambda: FIRST) == FIRST
