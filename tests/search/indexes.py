"""Indexes for the tests, and a library for those of the page: twelve images of known dates and a clip of two scenes."""

from __future__ import annotations

import atexit
import copy
import json
import os
import shlex
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.search.storage.database import COLUMNS, DATABASE, IndexRow, checksum_of
from perception_encoder.search.storage.store import STORE, IndexStore
from perception_encoder.search.storage.trust import remember_model
from perception_encoder.search.storage.update import UpdateReport, update_store, writable_store
from perception_encoder.search.storage.vectors import vectors_path
from perception_encoder.search.storage.words import Unread
from perception_encoder.search.storage.writer import IndexWriter
from perception_encoder.search_page.library import MediaLibrary
from perception_encoder.words.reader import TextLine
from tests.clips import clip


def update_folder(folder: Path, source: Path | str | None = None, **options: object) -> UpdateReport:
    """Bring a folder's index up to date; `options` are those of `writable_store`."""
    with writable_store(folder, ModelSpec(source or ""), **options) as (index, encoder):
        return update_store(index, encoder)


def make_index(folder: Path, source: Path | str) -> IndexStore:
    """Bring a folder's index up to date, and open it."""
    update_folder(folder, source)
    return IndexStore.open(folder)


def make_library(
    folder: Path,
    checkpoint: Path,
    encoder: Encoder,
    draw: Callable[[int], Image.Image],
    directory: Path | None = None,
) -> MediaLibrary:
    """Images of the first of each month of 2023; the clip is of 2024. `directory`: where the index is stored."""
    if directory is not None or folder.exists():
        _fill_library(folder, checkpoint, draw, directory)
    else:  # embedded once a session
        shutil.copytree(_library_to_copy(checkpoint, draw), folder)
        remember_model(IndexStore.open(folder), str(checkpoint))
    loaded = copy.copy(encoder)  # as if from the checkpoint, whose weights it has
    loaded.source = str(checkpoint)
    return MediaLibrary(IndexStore.open(directory or folder), loaded)


@cache
def _library_to_copy(checkpoint: Path, draw: Callable[[int], Image.Image]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="pe-tests-")) / "photos"
    atexit.register(shutil.rmtree, folder.parent)
    _fill_library(folder, checkpoint, draw, None)
    return folder


def _fill_library(folder: Path, checkpoint: Path, draw: Callable[[int], Image.Image], directory: Path | None) -> None:
    for number in range(12):
        path = folder / ("sub" if number % 2 else "") / f"{number:02d}'s <b>.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(number).save(path, quality=90)
        moment = datetime(2023, number + 1, 1, 12).timestamp()
        os.utime(path, (moment, moment))
    (folder / "clip.mp4").write_bytes(clip(200, rate=10))
    os.utime(folder / "clip.mp4", (datetime(2024, 2, 3).timestamp(),) * 2)
    update_folder(folder, checkpoint, every=0.5, directory=directory)


def text_line(text: str, left: float = 0.1, top: float = 0.1, right: float = 0.9, bottom: float = 0.2) -> TextLine:
    """A line of text in an upright box."""
    return TextLine(text=text, confidence=0.9, box=(left, top, right, top, right, bottom, left, bottom))


def write_words(folder: Path, lines: Mapping[str, Sequence[TextLine]]) -> None:
    """Store lines for some files of a folder's index, as if they had been read; for a video, in its first moment."""
    with IndexWriter.for_writing(folder), closing(IndexWriter.open(folder)) as writer:
        rows = {path: next(row for row in writer.rows() if row.path == path) for path in lines}
        writer.write_words([(Unread(path, row.digest, row.time), lines[path]) for path, row in rows.items()])
        writer.finish()


DIMENSION = 64
SETTINGS = {"source": "none", "model": "none", "weight_hash": "none", "dimension": DIMENSION, "every": 1.0}
"""Of an index without a model."""


def unit_vectors(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSION), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_rows(vectors: np.ndarray, first: int = 0) -> list[IndexRow]:
    """An image or, every fourth one, a video a vector."""
    about = {"start": None, "stop": None, "time": None, "length": None, "width": 4, "height": 3, "size": 9}
    return [
        IndexRow(
            id=f"{number}",
            path=f"{number}.jpg",
            kind="image" if number % 4 else "video",
            date=f"2024-01-{number % 28 + 1:02d}T00:00:00",
            modified=number,
            digest=f"{number}",
            vector=vector,
            **about,
        )
        for number, vector in enumerate(vectors, first)
    ]


def forge(folder: Path, file: str, vector: np.ndarray | None = None, **changes: object) -> None:
    """Change the row of a file, and its vector, as a stranger can: with the right checksum."""
    store = IndexStore.open(folder)
    vectors = vectors_path(folder / STORE, 1)
    content = np.fromfile(vectors, "<f4").reshape(-1, store.settings["dimension"])
    with closing(sqlite3.connect(folder / STORE / DATABASE, isolation_level=None)) as connection:
        slot, *values = connection.execute(
            f"SELECT slot, {', '.join(COLUMNS)} FROM rows WHERE path = ?", [file]
        ).fetchone()
        if vector is not None:
            content[slot] = vector
            content.tofile(vectors)
        values = [*(dict(zip(COLUMNS, values, strict=True)) | changes).values()]
        setting = ", ".join(f"{name} = ?" for name in (*COLUMNS, "checksum"))
        checksum = checksum_of(values, content[slot])
        connection.execute(f"UPDATE rows SET {setting} WHERE slot = {slot}", [*values, checksum])


def wait_for(condition: Callable[[], object], name: str) -> None:
    """Fail unless a condition is fulfilled within a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, name
        time.sleep(0.05)


def counts(report: UpdateReport) -> tuple[int, int, int, int]:
    """The files that were added, moved, gone and unchanged."""
    return report.added, report.moved, report.deleted, report.unchanged


def rows_by_path(folder: Path) -> dict[str, list[IndexRow]]:
    """The rows of a folder's index, with thumbnails."""
    rows: dict[str, list[IndexRow]] = {}
    for row in IndexStore.open(folder).rows(thumbnails=True):
        rows.setdefault(row.path, []).append(row)
    return rows


def hits(run: Any, *, status: int = 0) -> set[str]:
    """The paths of the hits that `pe search --json` printed."""
    assert run.status == status, run.stderr
    return {hit["path"] for hit in json.loads(run.stdout)["queries"][0]["hits"]}


FLOAT32 = 1e-5
"""Difference of two computations of a cosine in float32, which BLAS and torch round by the size of a batch."""


def assert_same_ranking(found: Sequence[Any], expected: Sequence[Any], atol: float = FLOAT32) -> None:
    """Compare the hits (objects, or JSON) of two computations: scores agree within `atol`.

    So only hits whose scores are this close change places.
    """
    pairs = [[hit if isinstance(hit, dict) else hit.to_dict() for hit in hits] for hits in (found, expected)]
    scores, wanted = ([hit["score"] for hit in hits] for hits in pairs)
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=atol)
    known = {hit["path"]: hit["score"] for hit in pairs[1]}
    for hit in pairs[0]:
        assert abs(known.get(hit["path"], min(wanted)) - hit["score"]) <= atol, hit


def paths(answer: dict) -> list[str]:
    """The paths of the tiles of an answer of the page."""
    return [tile["path"] for tile in answer["tiles"]]


def printed_command(stderr: str) -> list[str]:
    """The arguments of the `pe` command that ends an error."""
    return shlex.split(stderr.strip().rpartition(": pe ")[2])
