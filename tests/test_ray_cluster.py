"""Connections to a Ray cluster that cannot be made, and the count of what workers began."""

from __future__ import annotations

import importlib.util
import socket

import pytest

from perception_encoder.errors import ClusterError, MissingExtraError
from perception_encoder.ray_cluster import WorkCounter, check_cluster, last_line


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        check_cluster(address)
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at .*; start one with: ray start"):
        check_cluster(address)
    check_cluster("auto")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="ray is not installed"):
        check_cluster("auto")


def test_what_began_is_counted_until_it_ends() -> None:
    counter = WorkCounter()
    assert [counter.begin("a"), counter.begin("a"), counter.begin("b")] == [1, 2, 1]
    counter.end("a")
    assert counter.begin("a") == 1


def test_a_traceback_is_its_last_line() -> None:
    traceback = 'Traceback:\n  File "x.py", line 1\nValueError: no  cup'
    assert last_line(RuntimeError(traceback)) == "ValueError: no cup"
    assert last_line(RuntimeError("")) == "RuntimeError"
