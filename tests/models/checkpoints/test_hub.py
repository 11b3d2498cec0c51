"""Published weights come out of the hub's cache or are downloaded; a hub that does not answer costs seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import pytest

from perception_encoder.models.checkpoints import weights
from perception_encoder.models.checkpoints.weights import fetch_weights
from perception_encoder.models.registry import find_model

L14 = find_model("PE-Core-L14-336")
FETCH = """
import time
from perception_encoder.errors import WeightsUnavailableError
from perception_encoder.models.checkpoints.weights import fetch_weights
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
    assert "--model DIRECTORY/PE-Core-L14-336.pt" in line and "--model builtin" in line


def test_a_cached_file_is_taken_without_asking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, file: str(tmp_path / file))
    assert fetch_weights(L14) == tmp_path / "PE-Core-L14-336.pt"


def test_a_question_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread must not keep the program from ending."""
    answered, before = threading.Event(), set(threading.enumerate())
    monkeypatch.delenv("HF_HUB_ETAG_TIMEOUT", raising=False)
    monkeypatch.setattr(weights, "_PATIENCE", 0.05)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url, timeout: answered.wait(20))
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        weights._check_answer("https://example.org/a")
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon
    answered.set()
    thread.join(20)
    assert weights._check_answer("https://example.org/a") is None, "it answers at once now"

    def refuse(url: str, timeout: float) -> None:
        raise ValueError("gated")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    with pytest.raises(ValueError, match="gated"):
        weights._check_answer("https://example.org/a")
