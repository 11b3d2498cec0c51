"""What is bad or hostile: a thousand mangled files, links in a circle, an upload of 2 GB, a client that stalls."""

from __future__ import annotations

import io
import resource
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.search.storage.store import IndexStore
from perception_encoder.search.storage.update import UpdateReport
from perception_encoder.search_page.server import create_page
from perception_encoder.serving.api import create_app
from perception_encoder.serving.requests import ApiConfig
from tests.preprocess.test_media import mutated
from tests.search.indexes import make_library, update_folder
from tests.serving.servers import served

Draw = Callable[[int], Image.Image]
UPLOAD = 2 << 30


def test_a_thousand_mangled_files_are_rows_or_reasons(checkpoint: Path, encoder: Encoder, tmp_path: Path) -> None:
    for number, (name, data) in enumerate(mutated(1000, 3)):
        (tmp_path / f"{number:04d} {name}").write_bytes(data)
    report = update_folder(tmp_path, checkpoint)
    index = IndexStore.open(tmp_path)
    paths = {row.path for row in index.rows()}
    failed = {Path(failure.source).name for failure in report.skipped}
    written = {path.name for path in tmp_path.iterdir() if path.is_file()}
    ignored = written - paths - failed
    assert len(written) == 1000 and not paths & failed and not failed - written
    assert {Path(name).suffix for name in ignored} <= {".ts"}  # TypeScript, unless it begins as a video does
    assert len(paths) > 100 and len(failed) > 100
    vectors = np.stack([row.vector for row in index.rows()])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert len(index.nearest(encoder.encode_texts("a cat"), 50)) == 50


def damaged_files(directory: Path) -> list[Path]:
    """Images that are cut off and need more memory than `ByteBudget(1000)`."""
    (directory / "huge.ppm").write_bytes(b"P6\n13000 13000\n255\n")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8))
    for suffix in ("png", "tif", "webp", "avif", "jpg"):
        image.save(path := directory / f"cut.{suffix}")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return sorted(directory.iterdir())


def test_damaged_images_above_the_memory_limit_are_skipped(
    checkpoint: Path, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DECODING, "limit", 1000)
    damaged = damaged_files(tmp_path)
    draw(1).save(tmp_path / "good.png")
    report: list[UpdateReport] = []
    thread = threading.Thread(target=lambda: report.append(update_folder(tmp_path, checkpoint)), daemon=True)
    thread.start()
    thread.join(60)
    assert report, "the update never ends"
    assert {Path(failure.source).name for failure in report[0].skipped} == {path.name for path in damaged}
    assert [row.path for row in IndexStore.open(tmp_path).rows()] == ["good.png"]


def send(address: str, path: str, declared: bool) -> tuple[bytes, int]:
    """Post 2 GB, with or without saying how much; returns the answer's first line and the bytes that were taken."""
    host, port = address.removeprefix("http://").split(":")
    size = f"Content-Length: {UPLOAD}" if declared else "Transfer-Encoding: chunked"
    piece = bytes(1 << 20)
    sent = 0
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{size}\r\n\r\n".encode())
        try:
            while sent < UPLOAD:
                connection.sendall(piece if declared else b"%x\r\n%b\r\n" % (len(piece), piece))
                sent += len(piece)
        except OSError:
            pass  # it was hung up on
        try:
            return connection.recv(100).partition(b"\r\n")[0], sent
        except OSError:
            return b"", sent


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/image"])
def test_an_upload_of_two_gigabytes_is_refused_early(
    path: str, declared: bool, checkpoint: Path, encoder: Encoder, draw: Draw, tmp_path: Path
) -> None:
    library = make_library(tmp_path / "photos", checkpoint, encoder, draw)
    app = create_app(encoder, ApiConfig()) if path.startswith("/v1") else create_page(library)
    with served(app) as address:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        line, sent = send(address, path, declared)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024  # MiB
        assert line in (b"HTTP/1.1 413 Request Entity Too Large", b"HTTP/1.1 413 Content Too Large", b"")
        assert sent < UPLOAD / 4 and grown < 400
        assert httpx.get(f"{address}{'/health' if path.startswith('/v1') else '/api/status'}").status_code == 200


def test_uploads_are_limited_together(checkpoint: Path, encoder: Encoder, draw: Draw, tmp_path: Path) -> None:
    library = make_library(tmp_path / "photos", checkpoint, encoder, draw)
    size, refused = 60 << 20, 0
    with served(create_page(library)) as address:
        host, port = address.removeprefix("http://").split(":")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        uploads = [socket.create_connection((host, int(port)), timeout=10) for _ in range(12)]
        for upload in uploads:
            try:
                head = f"POST /api/image HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
                upload.sendall(head.encode())
                upload.sendall(bytes(size - 1))
                upload.settimeout(0.5)
                refused += upload.recv(12) == b"HTTP/1.1 429"
            except TimeoutError:
                pass  # the server waits for the last byte
            except OSError:
                refused += 1  # it was hung up on
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024  # MiB
        assert refused == 8 and grown < 500
        for upload in uploads:
            upload.close()
        image = io.BytesIO()
        draw(1).save(image, "PNG")
        assert httpx.post(f"{address}/api/image", content=image.getvalue()).status_code == 200


def test_a_client_that_stalls_keeps_nobody_waiting(
    checkpoint: Path, encoder: Encoder, draw: Draw, tmp_path: Path
) -> None:
    library = make_library(tmp_path / "photos", checkpoint, encoder, draw)
    with served(create_page(library)) as address:
        host, port = address.removeprefix("http://").split(":")
        stalled = [socket.create_connection((host, int(port))) for _ in range(50)]
        for connection in stalled:
            connection.sendall(b"POST /api/image HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\nabc")
        answers: list[int] = []
        asking = [
            threading.Thread(target=lambda: answers.append(httpx.get(f"{address}/api/hits?q=text:a cat").status_code))
            for _ in range(8)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join(timeout=20)
        assert answers == [200] * 8
        for connection in stalled:
            connection.close()
