"""The server's socket, its connections and its memory."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
import torch

from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.serving import server
from perception_encoder.serving.api import create_app
from perception_encoder.serving.generation import GenerationQueue
from perception_encoder.serving.requests import ApiConfig
from tests import processes
from tests.serving.generators import ENDLESS, EchoGenerator
from tests.serving.servers import served

HALF = b"GET /health HTTP/1.1\r\nHost: loc"


def closed(connection: socket.socket) -> bool:
    connection.settimeout(10)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_a_taken_port_is_an_error() -> None:
    with server.listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken.*--port"):
            server.listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1:0"):
        server.listen("192.0.2.1", 0)


def test_half_sent_heads_do_not_keep_others_out(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 20)
    monkeypatch.setattr(server, "HEAD_SECONDS", 100.0)
    with served(create_app(encoder, ApiConfig())) as address, ExitStack() as opened:
        host, port = address.removeprefix("http://").split(":")
        stalled = []
        for _ in range(60):
            stalled.append(opened.enter_context(socket.create_connection((host, int(port)))))
            stalled[-1].sendall(HALF)
        for _ in range(5):
            assert httpx.get(f"{address}/health", timeout=10).status_code == 200
        assert all(closed(connection) for connection in stalled[:40])  # the oldest ones
        stalled[-1].sendall(b"alhost\r\n\r\n")
        assert stalled[-1].recv(100).startswith(b"HTTP/1.1 200")


def test_a_head_must_arrive_in_time_the_next_one_of_a_connection_too(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 1.0)
    with served(create_app(encoder, ApiConfig())) as address:
        host, port = address.removeprefix("http://").split(":")
        for whole in (b"", HALF + b"alhost\r\n\r\n"):
            with socket.create_connection((host, int(port))) as connection:
                if whole:
                    connection.sendall(whole)
                    answer = b""
                    while not answer.endswith(b"}"):
                        answer += connection.recv(1000)
                began = time.monotonic()
                connection.sendall(HALF)
                assert closed(connection) and 0.5 < time.monotonic() - began < 8


def test_the_limit_on_files_is_raised() -> None:
    code = (
        "import resource; from perception_encoder.serving.server import raise_file_limit; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1])); "
        "raise_file_limit(); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) == (4096 if hard == resource.RLIM_INFINITY else min(4096, hard))


def test_names_under_which_others_reach_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Mill")
    assert server.reachable_names("192.168.1.5") == ("192.168.1.5",)
    assert server.reachable_names("fe80::1") == ("[fe80::1]",)
    *address, name, local = server.reachable_names("0.0.0.0")
    assert (name, local) == ("mill", "mill.local") and all(each.count(".") == 3 for each in address)
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: (_ for _ in ()).throw(OSError("no network")))
    assert server.reachable_names("::") == ("mill", "mill.local")


def test_sigterm_ends_a_server_with_an_open_stream(encoder: Encoder, tmp_path: Path) -> None:
    """A real signal to a real process; before, the process lived until the answer was complete."""
    listener = server.listen("127.0.0.1", 0)
    with listener:
        started = processes.start(serve_endless, listener, log=tmp_path / "log")
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    body = {"messages": [{"role": "user", "content": ENDLESS}], "max_tokens": 10_000, "stream": True}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60) as response:
        received = response.iter_bytes()
        next(received)
        (process,) = started.processes
        os.kill(process.pid, signal.SIGTERM)
        stopped = time.monotonic()
        assert started.statuses(20) == [-signal.SIGTERM], started.output()
        assert time.monotonic() - stopped < 10
        with suppress(httpx.RemoteProtocolError):
            assert b"[DONE]" not in b"".join(received)
    assert "Traceback" not in started.output()


def serve_endless(listener: socket.socket) -> None:
    """Serve a language model whose answer takes minutes."""
    server.STOP_SECONDS = 1
    echo = EchoGenerator(pause=0.05)
    encoder = Encoder(create_model("PE-Core-N16-128"), "cpu", torch.float32)
    server.run_server(create_app(encoder, ApiConfig(), chat=GenerationQueue("echo", lambda: echo)), listener)
