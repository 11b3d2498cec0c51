"""The page over a large library: how soon it shows something, over HTTP, from a `pe serve` process.

The rows are synthetic (random vectors, thumbnails of photographs), written by the index's own code; each has a file, so
that the update that `pe serve` begins with finds nothing to do.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

import numpy as np
from PIL import Image

from benchmarks.embed import write_photographs
from benchmarks.search.process import Client, resident_mib, serving
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.preprocess.image import encode_thumbnail, open_image
from perception_encoder.search.storage.database import IndexRow
from perception_encoder.search.storage.reader import THUMBNAIL_SIDE
from perception_encoder.search.storage.update import update_store, writable_store

ROWS, BRIEF_ROWS = 100_000, 20_000
CONNECTIONS = 6  # as many as a browser opens
LINKS = 20_000  # names that a file gets: file systems allow no end of them
WORDS = ("mug", "dog", "beach", "bicycle", "rose", "church", "train", "snow", "cake", "boat")
PAGE, QUERY = "first page", "first query"


def write_library(directory: Path, rows: int) -> None:
    """An index of `rows` images, and the images: a hundred photographs under many names."""
    (directory / "originals").mkdir()
    paths = write_photographs(directory / "originals", 100)
    thumbnails = [encode_thumbnail(open_image(path), THUMBNAIL_SIDE) for path in paths]
    generator, start = np.random.default_rng(0), datetime(2015, 1, 1)
    with writable_store(directory, ModelSpec()) as (index, encoder):
        index.begin()
        for first in range(0, rows, 4096):
            count = min(4096, rows - first)
            vectors = generator.standard_normal((count, encoder.dimension), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            some = []
            for number, vector in enumerate(vectors, first):
                name = _link(directory, paths[number % len(paths)], number)
                state = (directory / name).stat()
                row = IndexRow(
                    id=f"{number:012x}",
                    path=name,
                    kind="image",
                    start=None,
                    stop=None,
                    time=None,
                    length=None,
                    width=640,
                    height=480,
                    date=(start + timedelta(minutes=47 * number)).isoformat(timespec="seconds"),
                    size=state.st_size,
                    modified=state.st_mtime_ns,
                    digest=f"{number:032x}",
                    vector=vector,
                    thumbnail=thumbnails[number % len(thumbnails)],
                )
                some.append(row)
            index.replace([], some)
        index.finish()
    for path in paths:
        path.unlink()
    (directory / "originals").rmdir()


def _link(directory: Path, original: Path, number: int) -> str:
    name = f"{number // 1000:03d}/{number:06d}.jpg"
    (directory / name).parent.mkdir(exist_ok=True)
    os.link(original, directory / name)
    return name


def update_seconds(directory: Path, files: int = 100) -> float:
    """Seconds that an update takes for some new small images beside the library's, without the model."""
    generator = np.random.default_rng(1)
    for number in range(files):
        pixels = generator.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(directory / f"new {number}.png")
    encoder = load("builtin")
    vectors = generator.standard_normal((files, encoder.dimension)).astype(np.float32)
    with patch.object(Encoder, "embed_pixels", lambda _, pixels, feature: vectors[: len(pixels)]):
        start = time.perf_counter()
        with writable_store(directory, encoder) as (index, _):
            update_store(index, encoder)
        return time.perf_counter() - start


class Browser:
    """Some connections that share the work."""

    def __init__(self, port: int) -> None:
        self._local, self._port = threading.local(), port
        self._pool = ThreadPoolExecutor(CONNECTIONS)

    def get(self, path: str) -> bytes:
        """An answer, over this thread's connection."""
        if not hasattr(self._local, "client"):
            self._local.client = Client(self._port)
        body: bytes = self._local.client.get(path)
        return body

    def show(self, path: str) -> int:
        """Get hits and the thumbnails of all; returns how many there are."""
        tiles = json.loads(self.get(path))["tiles"]
        return sum(map(bool, self._pool.map(self.get, [tile["thumbnail"] for tile in tiles])))

    def open_page(self) -> int:
        """All that the page needs to show its first screen."""
        self.get("/")
        pending, here = ["page.css", "page.js"], set[str]()
        while pending:
            name = pending.pop()
            here.add(name)
            imports = re.findall(r'from "\./(\w+\.js)"', self.get(f"/static/{name}").decode())
            pending += [other for other in imports if other not in here and other not in pending]
        return self.show("/api/hits")

    def ask(self, text: str) -> int:
        """The hits of a query, with their thumbnails."""
        return self.show(f"/api/hits?q={quote('text:' + text)}")


def measure(brief: bool) -> dict[str, Any]:
    """Milliseconds from launch to the first page, then of a first query; and of both once warm."""
    rows, servers, rounds = (BRIEF_ROWS, 2, 10) if brief else (ROWS, 5, 40)
    cold: dict[str, list[float]] = {PAGE: [], QUERY: []}
    warm: dict[str, list[float]] = {PAGE: [], QUERY: []}
    with tempfile.TemporaryDirectory() as temporary:
        directory, start = Path(temporary), time.perf_counter()
        write_library(directory, rows)
        seconds = time.perf_counter() - start
        for _ in range(servers):
            launch = time.perf_counter()
            with serving([temporary]) as (process, port):
                browser = Browser(port)
                cold[PAGE].append(_milliseconds(browser.open_page, launch))
                cold[QUERY].append(_milliseconds(lambda: browser.ask("a red mug")))  # noqa: B023
                while json.loads(browser.get("/api/status"))["running"]:
                    time.sleep(0.2)
                for number in range(rounds):
                    text = f"a {WORDS[number % len(WORDS)]} and {number} others"  # never asked before
                    warm[PAGE].append(_milliseconds(browser.open_page))
                    warm[QUERY].append(_milliseconds(lambda: browser.ask(text)))  # noqa: B023
                memory = resident_mib(process.pid)
        update = update_seconds(directory)
    print(f"page: cold {cold}, warm {warm}", flush=True)
    return {"rows": rows, "seconds": seconds, "memory": memory, "cold": cold, "warm": warm, "update": update}


def _milliseconds(work: Any, start: float | None = None) -> float:
    start = time.perf_counter() if start is None else start
    if not work():
        raise RuntimeError("the page shows nothing")
    return (time.perf_counter() - start) * 1000
