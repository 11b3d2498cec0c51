"""Questions about the page's images: what the server answers, and what it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.preprocess.conversation import Reply, Sampling, ask
from perception_encoder.search_page.library import MediaLibrary
from perception_encoder.search_page.server import create_page
from perception_encoder.serving.queues import GenerationQueue
from tests.serving.generators import ENDLESS, EchoGenerator
from tests.serving.servers import served
from tests.tiny_language_models import tiny_language_model


@pytest.fixture
def echo() -> EchoGenerator:
    return EchoGenerator()


@pytest.fixture
def client(library: MediaLibrary, echo: EchoGenerator) -> Iterator[TestClient]:
    page = create_page(library, ask=GenerationQueue("echo", lambda: echo, limit=1))
    with TestClient(page, base_url="http://localhost") as client:
        yield client


def address_of(client: Any, path: str, base: str = "") -> str:
    """The address for questions about a file."""
    tiles = client.get(f"{base}/api/hits", params={"count": 200}).json()["tiles"]
    return f"{base}/api/ask/{next(tile['id'] for tile in tiles if tile['path'] == path)}"


def lines(response: httpx.Response) -> list[dict]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


PHOTO = "00's <b>.jpg"
END = {"finished": True, "cut": 0}


def test_a_video_is_asked_about_by_its_whole_moment(client: TestClient, library: MediaLibrary) -> None:
    answer = lines(client.post(address_of(client, "clip.mp4"), json={"question": "what?"}))
    assert answer[0] == {"text": "8 frames "}
    row = next(row for row in library.index.rows() if row.path == "clip.mp4")
    media, _ = library.media(row.id, whole=True)
    assert (media.start, media.end) == (row.start, row.stop) and row.stop > row.start


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "question: Field required"),
        ([], "must be a JSON object"),
        ({"question": 7}, "question is 7: Input should be a valid string"),
        ({"question": " "}, "the question is empty"),
        ({"question": "why?", "before": [["a"]]}, "before[0][1]: Field required"),
        ({"question": "why?", "before": [["a" * 30_000, "b" * 30_000]]}, "60,004 characters; the limit is 50,000"),
    ],
)
def test_bad_questions_are_refused(client: TestClient, body: object, message: str) -> None:
    refused = client.post(address_of(client, PHOTO), json=body)
    assert refused.status_code == 400 and message in refused.json()["error"]


def test_files_that_are_gone_or_damaged_and_ids_of_another_run(client: TestClient, folder: Path) -> None:
    other = client.post("/api/ask/abc-0123", json={"question": "what?"})
    assert other.status_code == 400 and "earlier run" in other.json()["error"]
    gone, damaged = address_of(client, "sub/01's <b>.jpg"), address_of(client, "02's <b>.jpg")
    (folder / "sub" / "01's <b>.jpg").unlink()
    (folder / "02's <b>.jpg").write_bytes(b"\xff\xd8\xff")
    refused = client.post(gone, json={"question": "what?"})
    assert refused.status_code == 400 and "no longer in the directory" in refused.json()["error"]
    refused = client.post(damaged, json={"question": "what?"})
    assert refused.status_code == 404 and "02's <b>.jpg" in refused.json()["error"]


def test_questions_have_the_protection_of_the_page(library: MediaLibrary, client: TestClient) -> None:
    address = address_of(client, PHOTO)
    foreign = client.post(address, json={"question": "what?"}, headers={"Origin": "http://evil.example"})
    assert foreign.status_code == 403
    page = create_page(library, key="secret", ask=GenerationQueue("echo", EchoGenerator))
    with TestClient(page, base_url="http://localhost") as locked:
        assert locked.post(address, json={"question": "what?"}).status_code == 401
        locked.headers["Authorization"] = "Bearer secret"
        assert lines(locked.post(address_of(locked, PHOTO), json={"question": "what?"}))[-1] == END


def test_a_browser_that_goes_ends_the_generation_and_others_are_told_to_wait(
    library: MediaLibrary, echo: EchoGenerator
) -> None:
    echo.pause = 0.05
    with served(create_page(library, ask=GenerationQueue("echo", lambda: echo, limit=1))) as base:
        address = address_of(httpx, PHOTO, base)
        with httpx.stream("POST", address, json={"question": ENDLESS}) as response:
            pieces = response.iter_bytes()
            assert next(pieces) == b'{"text": "0 "}\n'
            busy = httpx.post(address, json={"question": "what?"})
            assert busy.status_code == 429 and "are waiting" in busy.json()["error"]
        deadline = time.monotonic() + 8
        while echo.running:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert 0 < echo.tokens < 200
        echo.pause = 0.0
        assert httpx.post(address, json={"question": "what?"}).status_code == 200


def test_a_language_model_answers_about_a_file(library: MediaLibrary, folder: Path) -> None:
    model = tiny_language_model()
    with TestClient(
        create_page(library, ask=GenerationQueue("tiny", lambda: model)), base_url="http://localhost"
    ) as client:
        address = address_of(client, PHOTO)
        answer = lines(client.post(address, json={"question": "what?"}))
        encoded = model.encoded
        client.post(address, json={"question": "why?", "before": [["what?", "x"]]})
        assert model.encoded == encoded > 0, "the image is encoded once"
    with Image.open(folder / PHOTO) as image:
        expected: Reply = model.generate([ask("what?", [image.convert("RGB")])], Sampling(max_tokens=256))[0]
    assert "".join(line.get("text", "") for line in answer) == expected.text
    assert answer[-1] == {**END, "finished": expected.finished}
