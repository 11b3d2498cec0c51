"""Memory of hostile and refused inputs: the peak of a process, and what an error keeps."""

from __future__ import annotations

import base64
import gc
import io
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.errors import MediaTooLargeError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load
from perception_encoder.preprocess.documents import open_pdf_pages
from perception_encoder.serving.api import create_app
from perception_encoder.serving.queues import GenerationQueue
from perception_encoder.serving.requests import ApiConfig
from tests.pdfs import pdf
from tests.processes import run
from tests.serving.generators import EchoGenerator
from tests.serving.servers import data_uri

LIMIT_MIB = 150


def solid_webp(side: int) -> bytes:
    """A WebP of one colour in 38 bytes, of any size: it says nothing of a pixel."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(stream, "WEBP", lossless=True)
    content = bytearray(stream.getvalue())
    assert content[12:16] == b"VP8L"
    bits = int.from_bytes(content[21:25], "little") >> 28 << 28
    content[21:25] = (bits | (side - 1) << 14 | (side - 1)).to_bytes(4, "little")
    return bytes(content)


def chat_body(*uris: str) -> dict:
    parts = [{"type": "image_url", "image_url": {"url": uri}} for uri in uris]
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "What is this?"}]}]}


def send_hostile_inputs(checkpoint: Path) -> None:
    peaks: list[int] = []
    images = [f"data:image/webp;base64,{base64.b64encode(solid_webp(side)).decode()}" for side in (7000, 12_000)]
    encoder = load(checkpoint)

    def step(name: str, work: Callable[[], int]) -> None:
        status = work()
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        growth = (peaks[-1] - peaks[-2:][0]) / 1024
        print(f"{name}: status {status}, {growth:.0f} MiB")
        assert status == (413 if len(peaks) > 1 else 200) and growth < LIMIT_MIB, name

    def open_page() -> int:
        with pytest.raises(MediaTooLargeError):
            open_pdf_pages(pdf([(1, 99_999_999)]))
        return 413

    with TestClient(create_app(encoder, ApiConfig(), chat=GenerationQueue("echo", EchoGenerator))) as client:
        client.base_url = "http://localhost"
        small = {"input": {"image": data_uri(Image.new("RGB", (8, 8)))}}
        step("start", lambda: client.post("/v1/embeddings", json=small).status_code)
        step("PDF", open_page)
        step("large chat", lambda: client.post("/v1/chat/completions", json=chat_body(*images[:1] * 32)).status_code)
        body = {"input": {"image": images[1]}}
        step("large image", lambda: client.post("/v1/embeddings", json=body).status_code)


def test_hostile_inputs_take_little_memory(checkpoint: Path, tmp_path: Path) -> None:
    """Before: 4,300 MiB for the page, 1,200 for each chat, which stayed, and 2,200 for the WebP."""
    run(send_hostile_inputs, checkpoint, log=tmp_path / "log")


def images_in_memory() -> list[Image.Image]:
    return [item for item in gc.get_objects() if issubclass(type(item), Image.Image) and item.size == (300, 300)]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_the_images_of_a_refused_request_are_let_go(encoder: Encoder, path: str) -> None:
    whole = data_uri(Image.radial_gradient("L").resize((300, 300)))
    head, _, content = whole.partition(",")
    damaged = f"{head},{base64.b64encode(base64.b64decode(content)[:-2000]).decode()}"
    images = [whole, whole, damaged]
    body = chat_body(*images) if path.endswith("completions") else {"input": [{"image": image} for image in images]}
    with TestClient(create_app(encoder, ApiConfig(), chat=GenerationQueue("echo", EchoGenerator))) as client:
        client.base_url = "http://localhost"
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                refused = client.post(path, json=body)
                assert refused.status_code == 400 and "truncated" in refused.text
            deadline = time.monotonic() + 30  # a thread may still end the image that it was decoding
            while images_in_memory() and time.monotonic() < deadline:
                time.sleep(0.05)
            kept = images_in_memory()  # before, 10 and 4 of three requests
            assert not kept, [repr(holder)[:200] for holder in gc.get_referrers(kept[0])]
        finally:
            gc.enable()
