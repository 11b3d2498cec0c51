"""The annotation server: the page, its API, and parts of videos."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.applications import Starlette

from perception_encoder.errors import InputError
from perception_encoder.formats.tars import TarMember
from perception_encoder.video_dataset.annotation.project import AnnotationProject
from perception_encoder.video_dataset.annotation.server import (
    ACTIONS,
    create_annotation_page,
    parse_range,
    send_video,
)
from perception_encoder.web_server.http import ApiError
from tests.video_dataset.clips import short_clip

Post = Callable[..., Any]


@pytest.fixture
def client(project: AnnotationProject) -> Iterator[TestClient]:
    with TestClient(create_annotation_page(project), base_url="http://localhost") as client:
        yield client


@pytest.fixture
def post(client: TestClient) -> Post:
    """`post("annotate/next", "anna")` returns the answer's JSON, and checks its status."""

    def post(action: str, person: str, status: int = 200, **content: Any) -> Any:
        answer = client.post(f"/api/{action}", json={"person": person, "session": person, **content})
        assert answer.status_code == status, answer.text
        return answer.json()

    return post


def test_the_page_and_its_parts(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["cache-control"] == "no-store"
    assert page.status_code == 200 and "Annotate data" in page.text and '<input id="person"' in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for name in re.findall(r'(?:from|import) "\./(\w+\.js)"', client.get("/static/page.js").text):
        assert "javascript" in client.get(f"/static/{name}").headers["content-type"]
    assert client.get("/static/page.css").headers["content-type"].startswith("text/css")
    assert not re.search(r"style=|\son\w+=|<script>|<style", page.text)  # or the policy would forbid it
    assert client.get("/static/page.html").status_code == client.get("/static/..%2fserver.py").status_code == 404


def test_a_caption_is_refined_and_reviewed(post: Post) -> None:
    task = post("annotate/next", "anna")["task"]
    assert task["clip"]["original"] == "A red boat number 0 drifts on a lake."
    edit = {"id": task["id"], "caption": "A boat.", "rating": 4, "seconds": 7, "sequence": 1}
    assert post("annotate/save", "anna", **edit) == {"task": None}
    post("annotate/submit", "anna", **{**edit, "sequence": 2})
    review = post("review/next", "ben")["task"]
    assert (review["annotator"], review["annotated"], review["rating"]) == ("anna", "A boat.", 4)
    post("review/return", "ben", id=review["id"], note="which colour?")
    assert post("review/undo", "ben")["task"]["annotated"] == "A boat."
    post("review/save", "ben", id=review["id"], caption="A red", sequence=1)
    post("review/submit", "ben", id=review["id"], caption="A red boat.", sequence=2)
    post("annotate/skip", "ben", 404, id=99, note="dark")
    second = post("annotate/next", "anna")["task"]
    post("annotate/skip", "anna", id=second["id"], note="dark", caption="", sequence=1)
    assert post("annotate/undo", "anna")["task"]["id"] == second["id"]


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_numbers_that_the_database_cannot_hold(client: TestClient, post: Post, action: str) -> None:
    task = post("annotate/next", "anna")["task"]
    good = {"id": task["id"], "caption": "A boat.", "rating": 4, "seconds": 7, "sequence": 1, "note": "dark"}
    for name, value in (("id", str(2**63)), ("id", str(-(2**70))), ("sequence", str(2**64)), ("rating", str(2**65))):
        values = ", ".join(f'"{key}": {json.dumps(item)}' for key, item in good.items() if key != name)
        body = f'{{"person": "anna", "session": "anna", {values}, "{name}": {value}}}'
        assert client.post(f"/api/{action}", content=body).status_code in (200, 400, 404, 409)
    for seconds in ("NaN", "Infinity", "1e400", "-5"):
        body = f'{{"person": "anna", "session": "anna", "id": {task["id"]}, "caption": "x", "seconds": {seconds}}}'
        assert client.post(f"/api/{action}", content=body).status_code in (200, 400, 404, 409)
    assert post("annotate/next", "anna")["task"] is not None


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ({"person": " "}, 400, "1 to 40 printable characters"),
        ({"person": 3}, 400, "person is 3: Input should be a valid string"),
        ({"rating": "4"}, 400, "rating is '4': Input should be a valid integer"),
        ({"rating": 9}, 400, "rating is 9; it must be 1 to 5"),
        ({"caption": "x" * 20_001}, 400, "the limit is 20,000"),
        ({"id": 77}, 404, "annotation 77: does not exist"),
        ({"session": "another"}, 409, "opened in another tab"),
        ({"person": "ben"}, 409, "belongs to anna, not to ben"),
    ],
)
@pytest.mark.security
def test_what_is_refused(client: TestClient, post: Post, content: dict[str, Any], status: int, message: str) -> None:
    task = post("annotate/next", "anna")["task"]
    body = {"person": "anna", "session": "anna", "id": task["id"], "caption": "x", "sequence": 1, **content}
    answer = client.post("/api/annotate/save", json=body)
    assert answer.status_code == status and message in answer.json()["error"]


@pytest.mark.security
def test_bodies_and_actions_that_do_not_exist(client: TestClient) -> None:
    assert client.post("/api/annotate/next", content=b"[").status_code == 400
    assert client.post("/api/annotate/next", content=b"x" * (1 << 21)).status_code == 413
    assert client.post("/api/annotate/drop", json={"person": "a", "session": "s"}).status_code == 404
    for action in ACTIONS:
        assert client.get(f"/api/{action}").status_code == 405


@pytest.mark.security
def test_other_pages_are_refused(client: TestClient) -> None:
    body = {"person": "anna", "session": "s"}
    foreign = client.post("/api/annotate/next", json=body, headers={"Origin": "http://evil.example"})
    assert foreign.status_code == 403
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/video/1", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


@pytest.mark.security
def test_a_key_is_needed_when_there_is_one(project: AnnotationProject) -> None:
    with TestClient(create_annotation_page(project, key="secret"), base_url="http://localhost") as client:
        for address in ("/", "/video/1", "/api/progress", "/static/page.js"):
            assert client.get(address).status_code == 401
        assert client.post("/api/annotate/next", json={"person": "a", "session": "s"}).status_code == 401
        assert client.get("/?key=secret&as=anna").url.query == b"as=anna"
        assert client.get("/video/1").content == short_clip()


@pytest.mark.parametrize(
    "address",
    [
        "/video/99",
        f"/video/{2**63}",
        "/video/0",
        "/video/-1",
        "/video/..%2f..%2fetc%2fpasswd",
        "/video/1/../../data",
        "/annotations.sqlite",
    ],
)
def test_nothing_else_is_served(client: TestClient, address: str) -> None:
    assert client.get(address).status_code == 404


def test_the_command_starts_in_under_a_second_without_torch(many_videos: Path, tmp_path: Path) -> None:
    AnnotationProject(many_videos, tmp_path / "a.sqlite").update()
    code = "import sys; from unittest.mock import patch; from perception_encoder.cli.main import main\n"
    code += "with patch('perception_encoder.web_server.server.run_server'):\n"
    code += "    try: main(sys.argv[1:])\n    except SystemExit as end: print(end.code)\n"
    code += "print(sorted({'torch', 'numpy', 'PIL', 'av', 'pyarrow'} & sys.modules.keys()))"
    command = [sys.executable, "-c", code, "annotate", many_videos, "--store", tmp_path / "a.sqlite", "--port", "0"]
    before = os.times()
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    after = os.times()  # of the processor: others are at work
    address, status, modules = run.stdout.splitlines()
    assert address.startswith(f"10,000 videos of {many_videos} at http://127.0.0.1:"), run.stderr
    assert (status, modules) == ("0", "[]")
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("bytes=0-9", (0, 10)),
        ("bytes=90-", (90, 100)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("bytes=-", None),
        ("bytes=0-1,5-6", None),
        ("bytes=a-b", None),
        ("lines=0-9", None),
    ],
)
def test_ranges(header: str | None, part: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == part


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=5-4", "bytes=-0", "bytes=999999999999999999-"])
def test_bytes_beyond_the_video(header: str) -> None:
    with pytest.raises(ApiError, match="the video has 100 bytes") as error:
        parse_range(header, 100)
    assert error.value.status == 416


def test_a_part_is_read_in_pieces_with_its_headers(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4000
    member = TarMember(tmp_path / "a.tar", 6, len(content))
    with pytest.raises(InputError, match="was removed"):
        send_video(member, "mp4", None)
    member.tar.write_bytes(b"before" + content + b"after")
    app = Starlette()
    app.router.add_route("/{suffix}", lambda r: send_video(member, r.path_params["suffix"], r.headers.get("range")))
    with TestClient(app) as client:
        whole, part = client.get("/mp4"), client.get("/webm", headers={"Range": "bytes=10-"})
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, content, "video/mp4")
    assert (part.status_code, part.content, part.headers["content-type"]) == (206, content[10:], "video/webm")
    assert part.headers["content-range"] == f"bytes 10-{len(content) - 1}/{len(content)}"
