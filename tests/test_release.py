"""The command of the container's image serves, as far as that can be checked without docker."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.conftest import ROOT
from tests.drawings import write_drawing


def dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def last_stage() -> dict[str, str]:
    """Return the instructions of the image itself; of several of one kind, the last."""
    instructions = dockerfile()
    start = max(row for row, (word, _) in enumerate(instructions) if word == "FROM")
    return dict(instructions[start:])


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(last_stage()["ENV"]))


def test_the_images_command_serves_and_is_healthy(tmp_path: Path) -> None:
    """Its command, variables and health check, with other paths and a free port."""
    write_drawing("apple", tmp_path / "photos" / "apple.png")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    moved = {"/photos": str(tmp_path / "photos"), "/index": str(tmp_path / "index")}
    arguments = [moved.get(word, word) for word in json.loads(last_stage()["CMD"])]
    variables = {name: re.sub("^/cache", str(tmp_path / "cache"), value) for name, value in environment().items()}
    variables |= {"PATH": os.environ["PATH"], "PE_MODEL": "builtin", "PE_API_KEY": "secret", "PE_RUNTIME": "torch"}
    command = [sys.executable, "-m", *json.loads(last_stage()["ENTRYPOINT"]), *arguments, "--port", port]
    command[2] = "perception_encoder"  # `pe` may not be on the path
    check = json.loads(last_stage()["HEALTHCHECK"].partition("CMD ")[2])
    check = [sys.executable, *(word.replace(":8000/", f":{port}/") for word in check[1:])]
    assert subprocess.run(check, capture_output=True, check=False).returncode != 0  # nothing listens yet
    server = subprocess.Popen(command, env={**os.environ, **variables}, cwd=ROOT)
    try:
        for _ in range(120):
            if subprocess.run(check, capture_output=True, check=False).returncode == 0:
                break
            assert server.poll() is None
            time.sleep(0.5)
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 401
        page = httpx.get(f"http://127.0.0.1:{port}/", headers={"Authorization": "Bearer secret"})
        assert page.status_code == 200 and "<html" in page.text
    finally:
        server.terminate()
        server.wait(timeout=30)
    assert (tmp_path / "index").is_dir() and not (tmp_path / "photos" / ".pe-index").exists()
