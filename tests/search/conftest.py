"""A small model with random weights, images that differ, and a folder of them with an index."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import perception_encoder as pe
from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.media import Media
from perception_encoder.search.storage import update as update_module
from perception_encoder.search.storage.update import UpdateReport
from perception_encoder.search.storage.writer import IndexWriter
from perception_encoder.words import reader as reading
from perception_encoder.words.reader import TextLine
from tests.clips import clip
from tests.inference.conftest import checkpoint, draw, encoder
from tests.inference.conftest import image_files as pictures
from tests.search.indexes import SETTINGS, make_rows, text_line, unit_vectors, update_folder

Read = dict[str, list[str] | Exception]
__all__ = ["checkpoint", "draw", "encoder", "pictures"]


@pytest.fixture
def folder(pictures: list[Path]) -> Path:
    """Twenty images, a clip and a bad file."""
    (pictures[0].parent / "clip.mp4").write_bytes(clip(60))
    (pictures[0].parent / "bad.jpg").write_bytes(b"no image")
    return pictures[0].parent


@pytest.fixture
def update(checkpoint: Path, folder: Path) -> Callable[..., UpdateReport]:
    """Bring the folder's index up to date."""
    return lambda **options: update_folder(folder, checkpoint, **options)


@pytest.fixture
def photos(pictures: list[Path]) -> Path:
    """A folder of images, some of them in a subfolder with a quote in its name."""
    folder = pictures[0].parent
    below = folder / "2024's" / "may"
    below.mkdir(parents=True)
    for path in pictures[12:]:
        path.rename(below / path.name)
    return folder


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> tuple[Read, list[str]]:
    """A reader of words that returns what a test gives it by file name, and the names that it has read."""
    words: Read = {}
    names: list[str] = []

    def read(media: Media) -> list[TextLine]:
        name = Path(media.name.partition("@")[0]).name
        names.append(name)
        found = words.get(name, [])
        if isinstance(found, Exception):
            raise found
        return [text_line(text) for text in found]

    monkeypatch.setattr(reading, "read_words", read)
    monkeypatch.setattr(update_module, "can_read_words", lambda: True)
    monkeypatch.setitem(sys.modules, "rapidocr", types.ModuleType("rapidocr"))
    return words, names


@pytest.fixture
def index(pictures: list[Path], encoder: Encoder) -> Callable[..., pe.Index]:
    """Update and open the index of the folder."""

    def make(words: bool | None = None) -> pe.Index:
        pe.open_index(pictures[0].parent, encoder, words=words).update()
        return pe.open_index(pictures[0].parent, encoder)

    return make


@pytest.fixture
def store(tmp_path: Path) -> IndexWriter:
    """Twenty rows, whose words are empty."""
    store = IndexWriter.create(tmp_path, SETTINGS)
    store.begin()
    store.replace([], make_rows(unit_vectors(20, 0)))
    store.finish()
    return store
