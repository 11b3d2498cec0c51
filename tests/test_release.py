"""The container and the workflows, as far as they can be checked without docker and GitHub."""

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
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT
from tests.drawings import write_drawing

yaml = pytest.importorskip("yaml")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


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


def test_the_image_is_not_root_and_keeps_index_and_cache_in_volumes() -> None:
    stage, variables = last_stage(), environment()
    assert stage["USER"] == "1000:1000" and "useradd --uid 1000 " in stage["RUN"]
    volumes = json.loads(stage["VOLUME"])
    assert volumes == ["/index", "/cache"] and all(volume in stage["RUN"] for volume in volumes)
    assert "--index /index" in " ".join(json.loads(stage["CMD"]))
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME"):
        assert variables[name].startswith("/cache")


def test_files_that_the_image_copies_reach_docker() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    copied = [
        words for word, rest in dockerfile() if word == "COPY" and "--from" not in rest for words in rest.split()[:-1]
    ]
    assert {"pyproject.toml", "README.md", "LICENSE", "NOTICE", "perception_encoder"} == set(copied)
    assert rules[0] == "*" and all(f"!{name}" in rules and (ROOT / name).exists() for name in copied)


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


def test_compose_opens_to_this_machine_only_and_needs_a_key() -> None:
    content = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    (service,) = content["services"].values()
    assert service["ports"] == ["${PE_ADDRESS:-127.0.0.1}:8000:8000"]
    assert service["environment"]["PE_API_KEY"].startswith("${PE_API_KEY:?")
    assert (
        service["read_only"] is True
        and service["cap_drop"] == ["ALL"]
        and "no-new-privileges:true" in service["security_opt"]
    )
    targets = {
        volume.rsplit("}", 1)[-1].partition(":")[2] if "}" in volume else volume.partition(":")[2]
        for volume in service["volumes"]
    }
    assert targets == {"/photos:ro", "/index", "/cache"}
    assert content["volumes"].keys() == {"index", "cache"}


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", ".dockerignore"])
def test_container_files_name_nothing_of_this_machine(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"/(?:home|root|work|Users)/|hf_\w{20}|token", text)


def jobs(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content["permissions"] == {"contents": "read"}, path.name
    parsed: dict[str, Any] = content["jobs"]
    return parsed


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_store_no_secret_and_pin_their_actions(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "secrets." not in text
    for action in re.findall(r"uses: (.+)", text):  # a tag or a branch can be moved to other code
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for job in jobs(path).values():
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
            assert all(target in targets for target in re.findall(r"\bmake ([\w-]+)", step.get("run", "")))


def test_a_tag_publishes_wheel_and_image_after_they_were_tried() -> None:
    release = jobs(ROOT / ".github" / "workflows" / "release.yml")
    assert release["pypi"]["permissions"] == {"id-token": "write"} and release["pypi"]["needs"] == "try"
    assert release["image"]["permissions"] == {"contents": "read", "packages": "write"}
    assert release["image"]["needs"] == "try" and release["try"]["needs"] == "build"
    assert [name for name, job in release.items() if "id-token" in job.get("permissions", {})] == ["pypi"]
    systems = jobs(ROOT / ".github" / "workflows" / "systems.yml")
    for matrix in (release["try"]["strategy"]["matrix"], systems["try"]["strategy"]["matrix"]):
        assert {"macos-latest", "windows-latest"} <= set(matrix["system"])
