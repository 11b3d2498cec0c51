"""`pe serve`: it answers, and refuses to be open to others without a key."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from perception_encoder.inference.model_spec import ModelSpec
from tests.serving.generators import EchoGenerator

PE = [sys.executable, "-c", "from perception_encoder.cli.main import main; main()"]


def test_it_answers_and_stops_at_ctrl_c(checkpoint: Path) -> None:
    command = [*PE, "serve", "--api", "--model", checkpoint, "--port", "18431"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert "http://127.0.0.1:18431/v1/embeddings" in server.stdout.readline()
        deadline = time.monotonic() + 60
        while True:
            try:
                body = json.dumps({"input": ["a red mug"]}).encode()
                request = urllib.request.Request("http://127.0.0.1:18431/v1/embeddings", body)
                with urllib.request.urlopen(request, timeout=10) as response:
                    assert len(json.load(response)["data"][0]["embedding"]) == 256
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        server.send_signal(signal.SIGINT)
        server.wait(20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to serve: name a directory, or add --api"),
        (("--api", "--host", "0.0.0.0"), "set a --key"),
        ((".", "--host", "0.0.0.0"), "set a --key"),
        ((".", "--host", "0.0.0.0", "--key", ""), "the key is empty"),
        (("--api", "--key", ""), "the key is empty"),
        (("--api", "--origins", "https://app.example/path"), "'https://app.example/path' is not an origin"),
        (("--api", "--origins", "https://a.example,*"), "'*' is not an origin"),
        ((".", "--origins", "https://app.example"), "--origins needs --api"),
        ((".", "--lan", "--host", "127.0.0.1"), "leave out --lan or --host"),
        (("missing",), "missing is not a directory"),
        (("--api", "--model", "PE-Core-XXL"), "PE-Core-XXL"),
        (("--api", "--port", "99999"), "--port"),
        (("--api", "--ask-model", "builtin-lang"), "--ask-model needs a directory"),
        (("--api", "--features-model", "builtin"), "--features-model needs a directory"),
        ((".", "--features-model", "no-such-model"), "no-such-model"),
        ((".", "--chat-model", "builtin-lang"), "--chat-model needs --api"),
        (("--api", "--chat-model", "llava"), "no language model is called 'llava'; give builtin-lang, a file"),
        ((".", "--ask-model", "llava"), "no language model is called 'llava'"),
        (("--immich", "--key", "secret", "--immich-clip-only"), "send no key; omit --key"),
        (("--immich", "--api", "--immich-clip-only"), "omit --api"),
        (("--immich", "--allow-urls", "--immich-clip-only"), "omit --allow-urls"),
        (("--immich", "--origins", "https://a", "--immich-clip-only"), "omit --origins"),
        ((".", "--immich", "--lan", "--immich-clip-only"), "omit DIR, --lan"),
        (("--api", "--immich-clip-only"), "need --immich"),
        (("--immich", "--immich-upstream", "localhost:3003"), "give an address, such as http"),
    ],
)
def test_usage_errors(run_pe, arguments: tuple[str, ...], message: str) -> None:
    port = () if "--port" in arguments else ("--port", "0")
    run = run_pe("serve", *arguments, *port)
    assert run.status == 2 and message in " ".join(run.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("--lan",), r"[\w-]{22}"),
        (("--lan", "--key", "k"), "k"),
        (("--host", "0.0.0.0", "--key", "a b&c"), "a%20b%26c"),
    ],
)
def test_a_page_for_the_network_has_a_key(
    run_pe, checkpoint: Path, tmp_path: Path, arguments: tuple[str, ...], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: dict[str, int] = {}

    def visit(app: FastAPI, listener: socket.socket) -> None:
        statuses["address"] = listener.getsockname()[0]
        with TestClient(app, base_url="http://localhost", follow_redirects=False) as client:
            statuses["none"] = client.get("/").status_code
            statuses["wrong"] = client.get("/?key=wrong").status_code

    monkeypatch.setattr("perception_encoder.api.run_server", visit)
    run = run_pe("serve", tmp_path, "--model", checkpoint, "--port", "0", *arguments)
    assert run.status == 0 and statuses == {"address": "0.0.0.0", "none": 401, "wrong": 401}
    assert len(re.findall("key=", run.stdout)) == 1
    served = rf"Serving {re.escape(str(tmp_path))} \(model .+\)"
    assert re.search(rf"{served} at http://[\w.-]+:\d+/\?key={key}\n", run.stdout)


@pytest.mark.parametrize("api", [(), ("--api",)], ids=["page", "page and API"])
def test_a_given_key_is_required_on_this_machine_too(
    run_pe, checkpoint: Path, tmp_path: Path, api: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a reverse proxy every request comes from this machine."""
    apps: list[FastAPI] = []
    monkeypatch.setattr("perception_encoder.api.run_server", lambda app, listener: apps.append(app))
    run = run_pe("serve", tmp_path, *api, "--model", checkpoint, "--port", "0", "--key", "a b")
    assert re.search(r"at http://127\.0\.0\.1:\d+/\?key=a%20b\n", run.stdout), run.stderr
    with TestClient(apps[0], base_url="http://localhost") as client:
        for address in ("/", "/api/hits", "/api/status", "/file/x", "/static/page.js"):
            assert client.get(address).status_code == 401, address
        page = client.get("/", params={"key": "a b"})  # once: the cookie stays
        assert page.status_code == 200 and client.get("/api/status").status_code == 200


def test_an_api_for_the_network_prints_the_key_that_was_made(
    run_pe, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apps: list[FastAPI] = []
    monkeypatch.setattr("perception_encoder.api.run_server", lambda app, listener: apps.append(app))
    run = run_pe("serve", "--api", "--lan", "--model", checkpoint, "--port", "0")
    (key,) = re.findall(r"clients send: Authorization: Bearer ([\w-]{22})\n", run.stdout)
    with TestClient(apps[0]) as client:
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200


@pytest.mark.parametrize("what", ["page", "api"])
def test_a_taken_port_is_one_line_before_the_model_is_loaded(
    run_pe, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception_encoder.inference.load.load_spec", None)
    monkeypatch.setattr("perception_encoder.search_page.library.open_library", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = run_pe("serve", tmp_path if what == "page" else "--api", "--port", port)
    assert run.status == 2 and len(run.stderr.splitlines()) == 1
    assert f"port {port} of 127.0.0.1 is taken; choose another with --port" in run.stderr


def test_a_directory_that_cannot_have_an_index_is_one_line(run_pe, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / ".pe-index").write_text("in the way")
    run = run_pe("serve", tmp_path, "--model", checkpoint, "--port", "0")
    assert run.status == 2 and len(run.stderr.splitlines()) == 1
    assert "could not be written" in run.stderr and f"elsewhere: pe index {tmp_path} --index" in run.stderr


def fake_model(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    """`load_assistant` gives an echo, and adds to `names` what it was called with."""

    def load(spec: ModelSpec) -> EchoGenerator:
        names.append(str(spec.name))
        return EchoGenerator()

    monkeypatch.setattr("perception_encoder.language_models.load.load_assistant", load)


def test_one_language_model_serves_the_page_and_the_api_and_is_loaded_late(
    run_pe, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apps: list[FastAPI] = []
    names: list[str] = []
    fake_model(monkeypatch, names)
    monkeypatch.setattr("perception_encoder.api.run_server", lambda app, listener: apps.append(app))
    run = tmp_path / "run"
    run.mkdir()
    arguments = (tmp_path, "--api", "--chat-model", run, "--ask-model", run, "--model", checkpoint, "--port", "0")
    assert run_pe("serve", *arguments).status == 0
    with TestClient(apps[0], base_url="http://localhost") as client:
        assert names == []
        models = client.get("/v1/models").json()["data"]
        assert [model["id"] for model in models] == ["PE-Core-N16-128", "run"]  # not the whole path
        assert "Answers come from run" in client.get("/").text
        for name in ("run", str(run)):
            body = {"model": name, "messages": [{"role": "user", "content": "hello"}]}
            answer = client.post("/v1/chat/completions", json=body).json()
            assert answer["choices"][0]["message"]["content"] == "hello "
    assert names == [str(run)]
