"""A photo server's requests, in the form in which immich sends them."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient
from PIL import ExifTags, Image

import perception_encoder as pe
from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.models.clip import CLIP
from perception_encoder.models.initialization import initialize
from perception_encoder.models.registry import IMMICH_NAMES, find_model
from perception_encoder.serving.api import create_app
from perception_encoder.serving.immich import Immich, _parse_form
from perception_encoder.serving.requests import ApiConfig
from tests.serving.servers import served
from tests.web import serving

Draw = Callable[[int], Image.Image]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """A small model whose vectors have a size that immich knows."""
    entry = find_model("PE-Core-N16-128")
    assert entry.text is not None
    torch.manual_seed(0)
    model = CLIP(replace(entry.vision, output_dim=512), replace(entry.text, output_dim=512))
    initialize(model, torch.Generator().manual_seed(0))
    return Encoder.of(model.eval(), "cpu", torch.float32)


@pytest.fixture(scope="module")
def alias() -> str:
    return IMMICH_NAMES[512]


@pytest.fixture
def immich(encoder: Encoder) -> Iterator[TestClient]:
    """A client that reaches the server by the name of its container."""
    app = create_app(encoder, ApiConfig(body_bytes=1 << 20), immich=Immich.of(encoder, None, True))
    with TestClient(app, base_url="http://pe-machine-learning:3003") as client:
        yield client


def jpeg(image: Image.Image, **options: Any) -> bytes:
    image.save(buffer := io.BytesIO(), "JPEG", **options)
    return buffer.getvalue()


def visual(name: str) -> dict[str, str]:
    return {"entries": json.dumps({"clip": {"visual": {"modelName": name}}})}


def textual(name: str, **options: Any) -> dict[str, str]:
    return {"entries": json.dumps({"clip": {"textual": {"modelName": name, **options}}})}


def test_embeddings_are_those_of_the_encoder(immich: TestClient, encoder: Encoder, draw: Draw, alias: str) -> None:
    assert immich.get("/ping").text == "pong"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = jpeg(draw(1).resize((300, 200)), exif=exif, quality=95)
    answer = immich.post("/predict", data=visual(alias), files={"image": ("blob", content)})
    assert answer.status_code == 200 and {**answer.json(), "clip": ""} == {
        "clip": "",
        "imageHeight": 300,
        "imageWidth": 200,
    }
    assert isinstance(answer.json()["clip"], str)
    np.testing.assert_allclose(json.loads(answer.json()["clip"]), encoder.encode_images(content), atol=1e-5)
    for options in ({}, {"options": {}}, {"options": {"language": "de"}}):
        answer = immich.post(
            "/predict", data=textual(alias, **options) | {"text": "ein Füller, “rot”"}, files={"_": b""}
        )
        assert answer.json().keys() == {"clip"}
        found = json.loads(answer.json()["clip"])
        np.testing.assert_allclose(found, encoder.encode_texts("ein Füller, “rot”"), atol=1e-5)


def test_any_bytes_of_an_image_arrive(immich: TestClient, encoder: Encoder, alias: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "BMP")  # has every byte, and line ends of all kinds
    content = buffer.getvalue() + b"\r\n\r\n--\r\n\n\r"
    answer = immich.post("/predict", data=visual(alias), files={"image": ("blob", content)})
    np.testing.assert_allclose(json.loads(answer.json()["clip"]), encoder.encode_images(content), atol=1e-5)


def test_concurrent_requests(immich: TestClient, encoder: Encoder, draw: Draw, alias: str) -> None:
    contents = [jpeg(draw(number)) for number in range(12)]

    def ask(content: bytes) -> list[float]:
        return json.loads(
            immich.post("/predict", data=visual(alias), files={"image": ("blob", content)}).json()["clip"]
        )

    with ThreadPoolExecutor(6) as pool:
        np.testing.assert_allclose(list(pool.map(ask, contents)), encoder.encode(contents), atol=1e-4)


OCR = {
    "ocr": {
        "detection": {"modelName": "PP-OCRv5_mobile", "options": {"minScore": 0.5, "maxResolution": 736}},
        "recognition": {"modelName": "PP-OCRv5_mobile", "options": {"minScore": 0.8}},
    }
}


def test_words_are_those_of_read_words(encoder: Encoder, written: Image.Image) -> None:
    """With the extra `words`, a request for text in an image is answered; lines at or below the score are left out."""
    app = create_app(encoder, ApiConfig(), immich=Immich.of(encoder, None, True))
    with TestClient(app) as client:
        answer = client.post("/predict", data={"entries": json.dumps(OCR)}, files={"image": jpeg(written)}).json()
        small = client.post(
            "/predict", data={"entries": json.dumps(OCR)}, files={"image": jpeg(Image.new("L", (20, 20)))}
        )
    buffer = io.BytesIO(jpeg(written))
    lines = [line for line in pe.read_words(Image.open(buffer)) if line.confidence > 0.8]
    assert lines and answer["ocr"]["text"] == [line.text for line in lines]
    assert answer["ocr"]["box"] == pytest.approx(np.concatenate([line.box for line in lines]))
    assert len(answer["ocr"]["textScore"]) == len(answer["ocr"]["boxScore"]) == len(lines)
    assert (answer["imageWidth"], answer["imageHeight"]) == written.size
    assert small.json() == {
        "ocr": {"text": [], "box": [], "boxScore": [], "textScore": []},
        "imageHeight": 20,
        "imageWidth": 20,
    }


def test_without_the_extra_words_are_passed_on(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    answers = Immich.of(encoder, None, True)
    with TestClient(create_app(encoder, ApiConfig(), immich=answers)) as client:
        answer = client.post("/predict", data={"entries": json.dumps(OCR)}, files={"image": b"x"})
    assert answer.status_code == 400 and "only clip is answered, not 'ocr'" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("entries", "files", "status", "reason"),
    [
        ("{", {"image": b"x"}, 422, "entries must be a JSON object"),
        ("[]", {"image": b"x"}, 422, "entries must be a JSON object"),
        ("[" * 60_000, {"image": b"x"}, 422, "entries must be a JSON object"),
        ({"clip": {"visual": {"modelName": "ALIAS"}}, "x": "x" * 65_536}, {"image": b"x"}, 422, "at most 65,536 bytes"),
        (None, {"image": b"x"}, 422, "entries must be a JSON object"),
        ({"clip": {}}, {"image": b"x"}, 422, "either visual or textual"),
        ({"clip": {"visual": {}, "textual": {}}}, {"image": b"x"}, 422, "either visual or textual"),
        ({"clip": {"visual": "ALIAS"}}, {"image": b"x"}, 422, "either visual or textual"),
        ({"clip": {"visual": {}}}, {"image": b"x"}, 422, "with a modelName"),
        ({"clip": {"visual": {"modelName": None}}}, {"image": b"x"}, 422, "with a modelName"),
        ({"clip": {"visual": {"modelName": "ALIAS"}}}, {}, 400, "the request has no image"),
        ({"clip": {"textual": {"modelName": "ALIAS"}}}, {"image": b"x"}, 400, "the request has no text"),
        ({"clip": {"textual": {"modelName": "ALIAS"}}}, {"text": b"\xff"}, 400, "not UTF-8"),
        ({"clip": {"textual": {"modelName": "ALIAS"}}}, {"text": b"a" * 20_001}, 413, "20,000 bytes"),
        ({"clip": {"visual": {"modelName": "ALIAS"}}}, {"image": b"not an image"}, 400, "image"),
        ({"clip": {"visual": {"modelName": "ALIAS"}}}, {"image": b"x" * (1 << 20)}, 413, "1,048,576 bytes"),
        ({"clip": {"visual": {"modelName": "ViT-H-14__laion"}}}, {"image": b"x"}, 404, "ViT-H-14__laion"),
        ({"facial-recognition": {}}, {"image": b"x"}, 400, "is answered, not 'facial-recognition'"),
        ({"ocr": {}}, {"image": b"x"}, 422, "must have detection and recognition"),
        ({"ocr": {"detection": {}, "recognition": {}}}, {"image": b"x"}, 422, "must have detection and recognition"),
        (OCR, {}, 400, "the request has no image"),
        (OCR, {"image": b"not an image"}, 400, "image"),
        (OCR | {"facial-recognition": {}}, {"image": b"x"}, 422, "ocr with other jobs"),
    ],
)
def test_bad_requests(
    immich: TestClient, alias: str, entries: Any, files: dict[str, bytes], status: int, reason: str
) -> None:
    text = entries if isinstance(entries, str) else json.dumps(entries).replace("ALIAS", alias)
    data = {} if entries is None else {"entries": text}
    answer = immich.post("/predict", data=data, files=files or {"_": b""})
    assert answer.status_code == status and reason in answer.json()["detail"]


def test_other_bodies(immich: TestClient) -> None:
    for content, kind in ((b"{}", "application/json"), (b"x", "multipart/form-data"), (b"", "ü")):
        answer = immich.post("/predict", content=content, headers={"content-type": kind.encode("latin-1")})
        assert answer.status_code == 422, kind
    for answer, status in ((immich.get("/predict"), 405), (immich.post("/v1/embeddings", json={"input": "a"}), 404)):
        assert answer.status_code == status and list(answer.json()) == ["detail"]


@pytest.mark.parametrize(
    ("form_type", "between", "end", "arrives"),
    [
        ('multipart/form-data; boundary="B"', b"", b"\r\n--B--\r\n", True),
        ("Multipart/Form-Data; charset=utf-8; BOUNDARY=B", b"", b"\r\n--B--", True),
        ("multipart/form-data; boundary=B", b"Content-Transfer-Encoding: base64\r\n", b"\r\n--B--", True),
        ("multipart/form-data; boundary=B", b"Content-Type: message/rfc822\r\n", b"\r\n--B--", True),
        ("multipart/form-data; boundary=B", b"Content-Type: text/plain; charset=none\r\n", b"\r\n--B--", True),
        ("multipart/form-data; boundary=B", b"", b"", False),
        ("multipart/form-data; boundary=B", b"", b"--B--", False),
        ("multipart/form-data; boundary=C", b"", b"\r\n--B--", False),
        ("multipart/form-data; boundary*=none''B", b"", b"\r\n--B--", False),
        ("multipart/form-data", b"", b"\r\n--B--", False),
    ],
)
def test_forms(form_type: str, between: bytes, end: bytes, arrives: bool) -> None:
    rng = np.random.default_rng(0)
    contents = [bytes(rng.choice(list(b"\r\n-B a\0"), size)) for size in range(40)]
    contents = [content for content in contents if b"\r\n--B" not in b"\r\n" + content]
    for content in [b"\r\n--A", b"\n--B\n", b"a--B", b"\r--B--", *contents]:
        image = b'--B\r\nContent-Disposition: form-data; filename="blob"; name=image\r\n' + between + b"\r\n" + content
        fields, whole = _parse_form(form_type, bytearray(image + end))
        assert whole == image + end and fields == ({"image": content} if arrives else {})
        assert _parse_form(form_type, bytearray(b"before\r\n" + whole))[0] == fields


@pytest.mark.parametrize("content", [os.urandom(4 << 20), b"\r\n" * (2 << 20)], ids=["random", "lines"])
def test_a_form_is_in_memory_twice_beside_the_body(content: bytes) -> None:
    head = b'--B\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
    body = bytearray(head + content + b"\r\n--B--\r\n")
    tracemalloc.start()
    try:
        fields, _ = _parse_form("multipart/form-data; boundary=B", body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fields == {"image": content} and peak < 2.2 * len(body)


def test_other_jobs_are_passed_on(encoder: Encoder, draw: Draw, alias: str) -> None:
    """A request for faces reaches the other server as it was sent, and its answer the photo server."""
    upstream, bodies = FastAPI(), []

    @upstream.post("/predict")
    async def faces(request: Request) -> Response:
        bodies.append((request.headers["content-type"], await request.body()))
        return Response('{"facial-recognition": []}', 503 if b"fail" in bodies[-1][1] else 200)

    entries = FACES
    with served(upstream) as address:
        app = create_app(encoder, ApiConfig(), immich=Immich.of(encoder, f"{address}/", False))
        with TestClient(app) as client:
            files = {"image": ("blob", content := jpeg(draw(2)))}
            answer = client.post("/predict", data=entries, files=files)
            assert (answer.status_code, answer.json()) == (200, {"facial-recognition": []})
            assert bodies[0][0].startswith("multipart/form-data; boundary=") and content in bodies[0][1]
            assert client.post("/predict", data=entries, files={"image": b"fail"}).status_code == 503
            assert client.post("/predict", data=visual(alias), files=files).json()["imageWidth"] == 80
            both = {"entries": json.dumps(json.loads(entries["entries"]) | json.loads(visual(alias)["entries"]))}
            answer = client.post("/predict", data=both, files=files)
            assert answer.status_code == 422 and "clip with other jobs" in answer.json()["detail"]
            assert len(bodies) == 2
    with TestClient(app) as client:
        answer = client.post("/predict", data=entries, files=files)
        assert answer.status_code == 502 and "does not answer" in answer.json()["detail"]


FACES = {"entries": json.dumps({"facial-recognition": {"detection": {"modelName": "buffalo_l"}}})}


def test_an_upstream_that_hangs_stops_no_embeddings(encoder: Encoder, alias: str) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as upstream, ThreadPoolExecutor(40) as pool:
        app = create_app(encoder, ApiConfig(), immich=Immich.of(encoder, address_of(upstream), False))
        with served(app) as address:
            files = {"image": b"x"}
            faces = [pool.submit(httpx.post, f"{address}/predict", data=FACES, files=files) for _ in range(40)]
            with pytest.raises(TimeoutError):
                faces[-1].result(1.0)
            answer = httpx.post(f"{address}/predict", data=textual(alias) | {"text": "a"}, files={"_": b""}, timeout=10)
            assert answer.status_code == 200
            upstream.close()


def address_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 500 X\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_an_upstream_that_breaks_off(encoder: Encoder, sent: bytes) -> None:
    assert "does not answer" in refused_upstream(encoder, sent)


def refused_upstream(encoder: Encoder, *sent: bytes) -> str:
    """What the photo server is told of an upstream that sends these bytes, a tenth of a second apart."""

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            for number, piece in enumerate(sent):
                time.sleep(0.1 if number else 0)
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):  # else what is unread resets the connection
                pass

    with socket.create_server(("127.0.0.1", 0)) as upstream:
        threading.Thread(target=answer, args=[upstream], daemon=True).start()
        app = create_app(encoder, ApiConfig(), immich=Immich.of(encoder, address_of(upstream), False))
        with TestClient(app, raise_server_exceptions=False) as client:
            found = client.post("/predict", data=FACES, files={"image": b"x"})
    assert found.status_code == 502
    return found.json()["detail"]


def test_an_upstream_that_never_ends(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception_encoder.serving.immich.UPSTREAM_SECONDS", 1.0)
    monkeypatch.setattr("perception_encoder.serving.immich.UPSTREAM_BYTES", 1 << 20)
    for drips in ([b"HTTP/1.1 200 OK\r\n\r\n"] + [b" "] * 50, [b"HTTP/1.1 200 OK\r\n"] + [b"a: b\r\n"] * 50):
        assert "it took more than 1 s" in refused_upstream(encoder, *drips)
    assert "over 1,048,576 bytes" in refused_upstream(encoder, b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (2 << 20))


def test_an_upstream_is_asked_for_plain_bytes(encoder: Encoder) -> None:
    """A few compressed kilobytes may become gigabytes."""
    asked, bomb = [], gzip.compress(bytes(1 << 20))

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.headers["Accept-Encoding"])
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        handler.wfile.write(bomb)

    with serving(answer) as address:
        app = create_app(encoder, ApiConfig(), immich=Immich.of(encoder, address, False))
        with TestClient(app) as client:
            found = client.post("/predict", data=FACES, files={"image": b"x"})
    assert asked == ["identity"]
    assert found.status_code == 502 and "content-encoding gzip" in found.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example:3003", "Origin": "http://evil.example:3003"},  # a name that leads here for a moment
    ],
)
def test_web_pages_cannot_use_it(encoder: Encoder, alias: str, headers: dict[str, str]) -> None:
    asked = []
    with serving(lambda handler: asked.append(handler.path)) as address:
        app = create_app(encoder, ApiConfig(), immich=Immich.of(encoder, address, False))
        with TestClient(app, base_url="http://pe-machine-learning:3003") as client:
            for entries in (FACES, textual(alias) | {"text": "a"}):
                answer = client.post("/predict", data=entries, files={"_": b""}, headers=headers)
                assert answer.status_code == 403
    assert asked == []


@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "http://a b",
        "http://localhost:abc",
        "http://localhost:70000",
        "http:///x",
        "ftp://a",
        "http://a?b",
        "a",
    ],
)
def test_an_upstream_is_an_address(encoder: Encoder, address: str) -> None:
    with pytest.raises(ConfigError, match="give an address, such as http"):
        Immich.of(encoder, address, False)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "two models' vectors mix in its database"),
        ({"upstream": "http://a", "clip_only": True}, "two models' vectors mix"),
        ({"upstream": "localhost:3003"}, "give an address, such as http"),
    ],
)
def test_the_server_refuses_to_start(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    write_checkpoint(create_model("PE-Core-N16-128"), checkpoint := tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=reason):
        pe.serve_immich(checkpoint, port=0, precision="float32", **options)


def test_a_model_of_another_size_has_no_name(encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match="models with 512 and 1024"):
        Immich.of(encoder.cut(64), None, True)
