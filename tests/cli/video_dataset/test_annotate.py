"""`pe annotate`: it opens the project, and refuses to be open to others without a key."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from perception_encoder.video_dataset.annotation.project import AnnotationProject
from tests.video_dataset.clips import small_dataset


@pytest.fixture
def apps(monkeypatch: pytest.MonkeyPatch) -> list[FastAPI]:
    """The pages that were served, in order; serving ends at once."""
    apps: list[FastAPI] = []

    def serve(app: FastAPI, listener: socket.socket) -> None:
        with TestClient(app, base_url="http://localhost", follow_redirects=False) as client:
            app.state.answer = client.get("/")
        apps.append(app)

    monkeypatch.setattr("perception_encoder.serving.server.run_server", serve)
    return apps


def test_the_page_opens_on_this_machine(run_pe, apps: list[FastAPI], tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "clips")
    store = tmp_path / "own.sqlite"
    run = run_pe("annotate", data, "--port", "0", "--store", store, "--team", "anna,ben", "--double", "1")
    assert re.fullmatch(rf"3 videos of {re.escape(str(data))} at http://127\.0\.0\.1:\d+\n", run.stdout), run.stderr
    assert apps[0].state.answer.status_code == 200 and "<option>ben</option>" in apps[0].state.answer.text
    project = AnnotationProject(data, store)
    assert project.team() == ["anna", "ben"] and project.assign(["anna", "ben"]) == {"anna": 3, "ben": 3}
    assert run_pe("annotate", data, "--port", "0", "--store", store).status == 0
    assert AnnotationProject(data, store).team() == ["anna", "ben"]  # as it was


def test_the_page_for_the_network_has_a_key(run_pe, apps: list[FastAPI], tmp_path: Path) -> None:
    run = run_pe("annotate", small_dataset(tmp_path), "--port", "0", "--lan")
    assert re.search(r"at http://[\w.-]+:\d+/\?key=[\w-]{22}\n", run.stdout), run.stderr
    assert apps[0].state.answer.status_code == 401


def test_a_given_key_is_needed_on_this_machine_too(run_pe, apps: list[FastAPI], tmp_path: Path) -> None:
    run = run_pe("annotate", small_dataset(tmp_path), "--port", "0", "--key", "a secret")  # behind a reverse proxy
    assert re.search(r"at http://127\.0\.0\.1:\d+/\?key=a%20secret\n", run.stdout), run.stderr
    assert apps[0].state.answer.status_code == 401
    with TestClient(apps[0], base_url="http://localhost") as client:
        assert client.get("/static/page.css").status_code == 401
        client.get("/", params={"key": "a secret"}, follow_redirects=False)  # which sets a cookie
        assert client.get("/static/page.css").status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "0.0.0.0"), "set a --key"),
        (("--key", ""), "the key is empty"),
        (("--double", "2"), "must be from 0 to 1"),
        (("--team", "anna,anna"), "a name is twice in it"),
    ],
)
def test_bad_options(run_pe, apps: list[FastAPI], tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    run = run_pe("annotate", small_dataset(tmp_path), "--port", "0", *arguments)
    assert run.status == 2 and message in run.stderr and not apps


def test_a_directory_without_videos(run_pe, tmp_path: Path) -> None:
    run = run_pe("annotate", tmp_path, "--port", "0")
    assert run.status == 2 and "holds no videos" in run.stderr
