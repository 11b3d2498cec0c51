"""Commands of `pe` as processes of their own, and requests to those that serve."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PE = str(Path(sys.executable).with_name("pe"))


@contextmanager
def serving(arguments: Sequence[str], code: Path | None = None) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A `pe serve` process that answers, and its port; `code`: the checkout that serves, by default the installed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ if code is None else os.environ | {"PYTHONPATH": str(code.resolve())}
    command = [PE, "serve", *arguments, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("pe serve did not start") from None
                time.sleep(0.02)
        yield process, port
    finally:
        process.terminate()
        process.wait()


class Client:
    """One connection that stays open, like a browser's."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of an answer to GET or, with a body, POST."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        self._connection.request("GET" if body is None else "POST", path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def get(self, path: str) -> bytes:
        """Body of an answer that must be 200."""
        status, body = self.ask(path)
        if status != 200:
            raise RuntimeError(f"{path} answered {status}: {body[:200]!r}")
        return body

    def close(self) -> None:
        self._connection.close()


def resident_mib(pid: int) -> float:
    """Memory that a process holds now, in MiB."""
    return _status(Path(f"/proc/{pid}/status"), "VmRSS")


def peak_mib(pid: int | None = None) -> float:
    """The most memory that a process has held, by default this one, in MiB."""
    return _status(Path(f"/proc/{pid or 'self'}/status"), "VmHWM")


def _status(path: Path, name: str) -> float:
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
    return int(lines[name].split()[0]) / 1024
