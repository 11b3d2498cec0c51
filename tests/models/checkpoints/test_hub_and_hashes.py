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

from perception_encoder.errors import WeightsUnavailableError
from perception_encoder.models.checkpoints import files
from perception_encoder.models.checkpoints.files import CachedHash
from perception_encoder.models.checkpoints.find import DIRECTORY_FILES, fetch_weights, file_inside, find_weights
from perception_encoder.models.registry import find_model
from tests.models.external.samples import save_transformer

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

LOAD = """
import logging, time, traceback
import open_clip, sentence_transformers, timm, transformers
import perception_encoder as pe
from perception_encoder.model_choice import kind_of
from perception_encoder.errors import WeightsUnavailableError
from perception_encoder.inference.model_spec import ModelSpec
logging.disable()  # open_clip logs its errors as well
names = ("hf:a/b", "timm:vit_base_patch16_clip_224.openai", "open_clip:ViT-B-32,openai", "st:a/b")
calls = [(pe.load, name) for name in names]
calls += [(pe.load_assistant, "facebook/Perception-LM-1B"), (lambda name: kind_of(ModelSpec(name)), "hf:a/b")]
for function, name in calls:
    start = time.monotonic()
    try:
        function(name)
    except WeightsUnavailableError as error:
        print(round(time.monotonic() - start, 1), traceback.format_exc().count("Traceback"), error)
"""
CACHED = """
import numpy as np
import perception_encoder as pe
encoder = pe.load("hf:a/b", runtime="torch")
encoder.encode_images([np.zeros((40, 40, 3), np.uint8)])
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
    done = run_without_hub(FETCH, answering, tmp_path)
    seconds, *message = done.stdout.splitlines()
    assert float(seconds) < 3 and done.stderr == ""
    (line,) = message
    assert "download http://127.0.0.1:" in line
    assert "/facebook/PE-Core-L14-336/resolve/main/PE-Core-L14-336.pt elsewhere" in line
    assert "give the path DIRECTORY/PE-Core-L14-336.pt" in line and "--model" not in line


@pytest.mark.slow
@pytest.mark.parametrize("answering", [False, True], ids=["closed", "silent"])
def test_so_it_is_for_other_libraries_models(answering: bool, tmp_path: Path) -> None:
    for library in ("open_clip", "sentence_transformers", "timm", "transformers"):
        pytest.importorskip(library)
    done = run_without_hub(LOAD, answering, tmp_path)
    lines = done.stdout.splitlines()
    assert len(lines) == 6, done.stderr
    for line in lines:
        seconds, tracebacks, message = line.split(" ", 2)
        assert float(seconds) < 10 and tracebacks == "1", line
        assert "could not be loaded: it is not cached, and http://127.0.0.1:" in message
        assert "cannot be reached (" in message and "; give a copy of it as " in message
        assert "set to offline" not in message  # its client asks again for the next model


def test_of_a_hub_that_cannot_be_reached_cached_models_load_without_waiting(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--a--b"
    save_transformer("SiglipVision", repository / "snapshots" / FIRST)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(FIRST)
    start = time.monotonic()
    done = run_without_hub(CACHED, False, tmp_path)
    assert done.returncode == 0 and "Retrying" not in done.stderr, done.stderr
    assert time.monotonic() - start < 30  # a minute for each file if the client retries


def test_the_first_file_of_weights_that_a_directory_has(tmp_path: Path) -> None:
    assert file_inside(tmp_path, *DIRECTORY_FILES) == find_weights(tmp_path)[0] == tmp_path
    for name in DIRECTORY_FILES[::-1]:
        (tmp_path / name).mkdir()  # not a file
        assert file_inside(tmp_path, *DIRECTORY_FILES) != tmp_path / name
        (tmp_path / name).rmdir()
        (tmp_path / name).touch()
        assert file_inside(tmp_path, *DIRECTORY_FILES) == find_weights(tmp_path)[0] == tmp_path / name


def test_an_unfinished_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"fingerprint": "a"}')
    with pytest.raises(WeightsUnavailableError, match="unfinished run of `pe train`"):
        file_inside(tmp_path, "a", "b")
    (tmp_path / "b").touch()
    assert file_inside(tmp_path, "a", "b") == tmp_path / "b"
    (tmp_path / "b").rename(tmp_path / "epoch.safetensors")
    assert file_inside(tmp_path, "a", "b") == tmp_path


def run_without_hub(program: str, answering: bool, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a program whose hub is an `endpoint`, with a cache in `home`."""
    with endpoint(answering) as address:
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
        return subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=environment
        )


def test_a_cached_file_is_taken_without_asking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, file: str(tmp_path / file))
    assert fetch_weights(L14) == tmp_path / "PE-Core-L14-336.pt"


@pytest.fixture
def weight_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as written long ago, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "SETTLED_NS", 0)
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
        patch.setattr(files, "SETTLED_NS", 60_000_000_000)
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
