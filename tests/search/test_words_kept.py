"""Words that were read are those of the content that is indexed, and stay: changed files, tars, rebuilt indexes."""

from __future__ import annotations

import os
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

import perception_encoder as pe
from perception_encoder.errors import MediaNotFoundError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.media import Media
from perception_encoder.search.storage.database import DATABASE, connect
from perception_encoder.search.storage.store import STORE
from perception_encoder.search.storage.writer import IndexWriter
from perception_encoder.words import reader as reading
from perception_encoder.words.reader import TextLine


def stored(folder: Path) -> int:
    """Return the number of contents whose words have been read."""
    with closing(connect(folder / STORE)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM words").fetchone()
    return count


def test_a_file_twice_in_a_tar_has_its_words(reader, tmp_path: Path, encoder: Encoder, draw) -> None:
    words, names = reader
    words["a.jpg"] = ["Grocery"]
    draw(0).save(tmp_path / "a.jpg")
    (folder := tmp_path / "folder").mkdir()
    with tarfile.open(folder / "photos.tar", "w") as tar:
        tar.add(tmp_path / "a.jpg", "a.jpg")
        tar.add(tmp_path / "a.jpg", "a.jpg")
    assert pe.open_index(folder, encoder, words=True).update().words == len(names) == 1
    assert len(pe.open_index(folder, encoder).search('"grocery"')) == 1


def test_a_file_that_changes_or_goes_meanwhile_is_left_for_the_next_update(
    reader, index, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, names = reader
    folder, read = pictures[0].parent, reading.read_words
    earlier, gone = pictures[3].read_bytes(), pictures[5].read_bytes()

    def change_others(media: Media) -> list[TextLine]:
        if "00.jpg" in media.name:
            Image.new("RGB", (40, 40), "red").save(pictures[3])
            pictures[5].unlink()
        return read(media)

    words["03.jpg"], words["05.jpg"] = ["of a red image"], MediaNotFoundError("05.jpg", "no such file")
    with monkeypatch.context() as patch:
        patch.setattr(reading, "read_words", change_others)
        index(words=True)
    assert stored(folder) == len(pictures) - 2
    pictures[3].write_bytes(earlier)
    pictures[5].write_bytes(gone)
    words["03.jpg"], words["05.jpg"] = ["Grocery"], ["Total"]
    names.clear()
    found = index()
    assert sorted(names) == ["03.jpg", "05.jpg"] and not found.search('"red image"')  # two threads read
    assert [Path(hit.path).name for hit in found.search(['"grocery"', '"total"'])] == ["03.jpg", "05.jpg"]


def test_a_rebuilt_index_goes_on_reading_words(reader, index, pictures: list[Path], encoder: Encoder) -> None:
    words, names = reader
    words["03.jpg"] = ["Grocery"]
    index(words=True)
    names.clear()
    folder = pictures[0].parent
    pe.open_index(folder, encoder).update(rebuild=True)
    assert len(names) == len(pictures) and len(pe.open_index(folder, encoder).search('"grocery"')) == 1
    pe.open_index(folder, encoder, words=False).update(rebuild=True)
    assert len(names) == len(pictures) and not pe.open_index(folder, encoder).search('"grocery"')


def test_one_changed_byte_of_the_table_of_words_is_mended(
    reader, index, pictures: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    """As a disk damages it: size and time of the file stay."""
    words, names = reader
    words["03.jpg"] = ["Grocery"]
    index(words=True)
    file = pictures[0].parent / STORE / DATABASE
    status = file.stat()
    with closing(sqlite3.connect(file)) as connection, connection:
        blocks = connection.execute("SELECT block, id FROM lookup_data").fetchall()
        changed = [(block.replace(b"grocery", b"grokery"), number) for block, number in blocks if b"grocery" in block]
        assert connection.executemany("UPDATE lookup_data SET block = ? WHERE id = ?", changed).rowcount
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    names.clear()
    assert file.stat().st_size == status.st_size
    assert len(index().search('"grocery"')) == 1 and names == [] and "were damaged" in caplog.text


def test_a_stored_box_takes_few_digits(store: IndexWriter) -> None:
    (image, *_) = store.unread()
    thirds = tuple(share / 3 for share in (0, 1, 2, 1, 2, 2, 0, 2))
    store.write_words([(image, [TextLine(text="Grocery", confidence=0.9, box=thirds)])])
    (lines,) = store.lines([row for row in store.rows() if row.digest == image.digest])
    assert lines[0].box == pytest.approx(thirds, abs=1e-4) and len(repr(lines[0].box)) < 64
