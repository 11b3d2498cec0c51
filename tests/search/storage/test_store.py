"""The stored index: nearest rows, conditions, odd names, and one writer beside readers that never wait."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import ConfigError, OutputError, SearchIndexError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.storage import writer as module
from perception_encoder.search.storage.store import STORE, IndexStore
from perception_encoder.search.storage.writer import IndexWriter
from tests.search.indexes import counts, rows_by_path

Draw = Callable[[int], Image.Image]


def test_nearest_is_exact_and_takes_conditions(update, folder: Path, encoder: Encoder) -> None:
    update()
    index = IndexStore.open(folder)
    rows = index.rows()
    query = encoder.encode_texts("a cat")
    scores = {row.id: float(row.vector @ query) for row in rows}
    found = index.nearest(query, 5)
    assert [row.id for _, row in found] == sorted(scores, key=scores.get, reverse=True)[:5]
    np.testing.assert_allclose([score for score, _ in found], sorted(scores.values())[:-6:-1], atol=1e-5)
    asked: list[str] = []
    index.nearest(query, 5, keep=lambda row: not asked.append(row.id))
    assert asked == [row.id for _, row in found]
    assert {row.kind for _, row in index.nearest(query, 9, "kind = 'video'")} == {"video"}
    assert {row.path for row in index.rows("path IN ('01.jpg', 'it''s')")} == {"01.jpg"}
    assert index.rows("date > '2999'") == [] and len(index.rows("date > '1999-05'")) == len(rows)
    with pytest.raises(ConfigError, match="condition 'colour = 3' is invalid"):
        index.nearest(query, 5, "colour = 3")


def test_there_is_one_writer_and_readers_beside_it(update, folder: Path, draw: Draw, encoder: Encoder) -> None:
    update()
    reader = IndexStore.open(folder)
    with IndexWriter.for_writing(folder), pytest.raises(OutputError, match="another run is writing the index"):
        update()
    for number in range(3):
        draw(60 + number).save(folder / f"more{number}.jpg")
        update()
        assert len(reader.nearest(encoder.encode_texts("a cat"), 100)) == len(reader) == 22 + number
    assert len(IndexStore.open(folder).files()) == 24
    update(rebuild=True)
    for fail in (reader.refresh, reader.rows):
        with pytest.raises(SearchIndexError, match="has been rebuilt; open it again"):
            fail()


def test_a_reader_does_not_wait_for_a_commit(
    update, folder: Path, draw: Draw, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees the commit before, also while an update of a finished index begins."""
    update()
    reader, query, insert, found = IndexStore.open(folder), encoder.encode_texts("a cat"), module.insert_rows, []

    def insert_and_search(*arguments: Any) -> None:
        insert(*arguments)
        began = time.monotonic()
        found.append([len(index.nearest(query, 100)) for index in (reader, IndexStore.open(folder))])
        assert time.monotonic() - began < 5  # a writer that is waited for would not end

    monkeypatch.setattr(module, "insert_rows", insert_and_search)
    draw(60).save(folder / "more.jpg")
    update()
    assert found == [[21, 21]] and len(reader.nearest(query, 100)) == 22


def test_vectors_are_on_disk_before_the_commit_that_names_them(
    update, folder: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("needs the names of open files")
    update()
    rows, fsync = list[int](), os.fsync

    def record(handle: int) -> None:
        fsync(handle)
        if os.readlink(f"/proc/self/fd/{handle}").endswith("vectors-1.f32"):
            rows.append(len(IndexStore.open(folder)))

    monkeypatch.setattr(os, "fsync", record)
    draw(60).save(folder / "more.jpg")
    update()
    assert rows == [21]


def test_a_full_disk_is_named_and_nothing_lost(
    update, folder: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    update()
    vectors = folder / STORE / "vectors-1.f32"
    append, limits = module.append_vectors, resource.getrlimit(resource.RLIMIT_FSIZE)

    def filled(*arguments: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (vectors.stat().st_size + 9, limits[1]))
        try:
            append(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(module, "append_vectors", filled)
    draw(70).save(folder / "new.jpg")
    with pytest.raises(OutputError, match=r"could not be written: File too large$"):
        update()
    monkeypatch.undo()
    assert len(IndexStore.open(folder)) == 21
    assert counts(update()) == (1, 0, 0, 21) and "new.jpg" in rows_by_path(folder)


def test_what_a_kill_left_of_a_commit_is_no_row(
    update, folder: Path, draw: Draw, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    update()
    before = rows_by_path(folder)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    draw(60).save(folder / "more.jpg")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "insert_rows", stop)  # after the vectors were written
        update()
    assert rows_by_path(folder).keys() == before.keys()
    draw(61).save(folder / "more.jpg")
    update()
    after = rows_by_path(folder)
    (added,) = after.pop("more.jpg")
    np.testing.assert_allclose(added.vector, encoder.encode(folder / "more.jpg"), atol=2e-2)  # bfloat16
    assert after.keys() == before.keys()
    for path, rows in before.items():
        assert [row.vector.tolist() for row in rows] == [row.vector.tolist() for row in after[path]]


def test_a_text_search_loads_only_what_it_needs(update, folder: Path) -> None:
    """Others take longer to import than the search takes."""
    update()
    program = "import sys, perception_encoder.cli.main as pe\ntry: pe.main()\nfinally: print(sorted(sys.modules))"
    command = [sys.executable, "-c", program, "search", "a red mug", str(folder), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '"hits"' in run.stdout and "'torch'" in run.stdout
    assert not {"lancedb", "av", "pandas", "pyarrow.compute", "turbovec"} & set(
        run.stdout.rpartition("[")[2].split("'")
    )


def test_odd_names_and_tars_are_indexed_and_forgotten(update, folder: Path, draw: Draw) -> None:
    update()
    odd = [
        os.fsdecode(name) for name in (b"it's; DROP TABLE.jpg", b"<b>&amp;.jpg", b"line\nbreak.jpg", b"\xff\xfe.jpg")
    ]
    for number, name in enumerate(odd):
        draw(50 + number).save(folder / name)
    with tarfile.open(folder / "more.tar", "w") as tar:
        tar.add(folder / "01.jpg", "inside/'one'.jpg")
    report = update()
    assert counts(report) == (4, 1, 0, 21)
    paths = set(rows_by_path(folder))
    assert {"it's; DROP TABLE.jpg", "<b>&amp;.jpg", r"line\x0abreak.jpg", r"\xff\xfe.jpg"} < paths
    assert "more.tar/inside/'one'.jpg" in paths
    for name in [*odd, "more.tar"]:
        (folder / name).unlink()
    assert counts(update()) == (0, 0, 5, 21)
    assert len(rows_by_path(folder)) == 21
