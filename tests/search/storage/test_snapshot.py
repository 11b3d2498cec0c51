"""The snapshot beside an index: the same answers as the table's, never out of date, and no LanceDB to load."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import OutputError, SearchIndexError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.storage import snapshot
from perception_encoder.search.storage.rows import IndexRow
from perception_encoder.search.storage.snapshot import Snapshot
from perception_encoder.search.storage.store import STORE, Store
from perception_encoder.search.storage.update import update_store, writable_store
from tests.clips import clip


@pytest.fixture
def update(checkpoint: Path, pictures: list[Path]) -> Callable[..., Store]:
    """Bring the index of twenty images and a clip up to date, and open it."""
    (pictures[0].parent / "clip.mp4").write_bytes(clip(60))

    def update(**options: object) -> Store:
        with writable_store(pictures[0].parent, str(checkpoint), **options) as (index, encoder):
            update_store(index, encoder)
        return Store.open(index.directory)

    return update


def uses_snapshot(index: Store) -> bool:
    return "table" not in vars(index)


def told(rows: list[IndexRow]) -> list[tuple[object, ...]]:
    return [(*(value for name, value in vars(row).items() if name != "vector"), *row.vector) for row in rows]


def test_answers_are_those_of_the_table(update: Callable[..., Store], encoder: Encoder) -> None:
    quick, slow = update(), update()
    slow._snapshot = None
    assert told(quick.rows()) == told(slow.rows())
    assert quick.listing().to_pylist() == slow.listing().to_pylist()
    assert len(quick) == len(slow) and quick.files() == slow.files()
    query = encoder.encode_texts("a cat")
    found, expected = quick.nearest(query, 8), slow.nearest(query, 8)
    assert [row.id for _, row in found] == [row.id for _, row in expected]
    np.testing.assert_allclose([score for score, _ in found], [score for score, _ in expected], atol=1e-6)
    assert len(quick.nearest(query, 1000)) == len(quick)
    assert uses_snapshot(quick) and not uses_snapshot(slow)


def test_one_that_is_out_of_date_is_not_used(
    update: Callable[..., Store], pictures: list[Path], draw: Callable[[int], Image.Image]
) -> None:
    reader = update()
    place = reader.directory / STORE
    old = (place / "snapshot.arrow").read_bytes()
    draw(70).save(pictures[0].parent / "new.jpg")
    assert "new.jpg" not in {row.path for row in reader.rows()}
    update()
    reader.refresh()
    assert "new.jpg" in {row.path for row in reader.rows()}
    (place / "snapshot.arrow").write_bytes(old)
    index = Store.open(reader.directory)
    assert not uses_snapshot(index) and "new.jpg" in {row.path for row in index.rows()}


def test_one_of_an_index_that_was_made_anew_is_not_used(update: Callable[..., Store], pictures: list[Path]) -> None:
    """A new table counts its commits from the first again."""
    first = len(update())
    for path in pictures[10:]:
        path.unlink()
    assert len(update(rebuild=True)) == first - 10


def test_a_reader_refuses_an_index_that_was_made_anew(update: Callable[..., Store]) -> None:
    """Its settings and the number of its commit may be those of the one before."""
    reader = update()
    update(rebuild=True)
    with pytest.raises(SearchIndexError, match="has been rebuilt; open it again"):
        reader.refresh()


@pytest.mark.parametrize("name", ["snapshot.arrow", "vectors.f32"])
@pytest.mark.parametrize("harm", ["cut", "noise", "empty", "other"])
def test_a_damaged_one_is_not_used(name: str, harm: str, update: Callable[..., Store]) -> None:
    index = update()
    file = index.directory / STORE / name
    whole = file.read_bytes()
    harms = {"cut": whole[: len(whole) // 2], "noise": bytes(reversed(whole)), "empty": b"", "other": b"other" * 99}
    file.write_bytes(harms[harm])
    opened = Store.open(index.directory)
    assert not uses_snapshot(opened) and len(opened) == len(index)
    assert uses_snapshot(update())  # mended


def test_one_that_is_replaced_while_it_is_opened_is_not_used(
    update: Callable[..., Store], encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows may be of one commit, and its vectors of the next."""
    index, query = update(), encoder.encode_texts("a cat")
    expected = [row.path for _, row in index.nearest(query, 8)]
    vectors, opening = index.directory / STORE / "vectors.f32", Snapshot.__init__

    def replaced(self: Snapshot, *arguments: object) -> None:
        swapped = vectors.with_name("swapped")
        swapped.write_bytes(np.flip(np.fromfile(vectors, "<f4").reshape(len(index), -1), axis=0).tobytes())
        swapped.replace(vectors)
        opening(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Snapshot, "__init__", replaced)
    reader = Store.open(index.directory)
    assert not uses_snapshot(reader) and [row.path for _, row in reader.nearest(query, 8)] == expected


@pytest.fixture
def grow(update: Callable[..., Store], draw: Callable[[int], Image.Image]) -> Callable[[], Store]:
    """An update that appends a vector."""
    place = update().directory

    def grow() -> Store:
        draw(70).save(place / "new.jpg")
        return update()

    return grow


def test_appended_vectors_reach_the_disk_before_the_seal(
    grow: Callable[[], Store], pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, order, fsync = pictures[0].parent / STORE, list[str](), os.fsync

    def record(handle: int) -> None:
        order.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("needs the names of open files")
    monkeypatch.setattr(os, "fsync", record)
    before = (place / "vectors.f32").stat().st_size
    grow()
    assert (place / "vectors.f32").stat().st_size > before
    assert "seal" in "".join(order[order.index("vectors.f32") :])


def test_a_full_disk_is_named(grow: Callable[[], Store], pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    vectors = pictures[0].parent / STORE / "vectors.f32"
    append, limits = snapshot._append, resource.getrlimit(resource.RLIMIT_FSIZE)

    def filled(*arguments: Any) -> object:
        resource.setrlimit(resource.RLIMIT_FSIZE, (vectors.stat().st_size, limits[1]))
        try:
            return append(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(snapshot, "_append", filled)
    with pytest.raises(OutputError, match=r"could not be written: File too large$"):
        grow()
    monkeypatch.undo()
    assert "new.jpg" in {row.path for row in Store.open(vectors.parents[1]).rows()}


@pytest.mark.skipif(os.name == "nt", reason="POSIX links")
def test_vectors_are_not_appended_through_a_link(grow: Callable[[], Store], pictures: list[Path]) -> None:
    vectors, victim = pictures[0].parent / STORE / "vectors.f32", pictures[0].parent / "victim"
    content = vectors.read_bytes()
    vectors.rename(victim)
    vectors.symlink_to(victim)
    index = grow()
    assert victim.read_bytes() == content and not vectors.is_symlink()
    assert uses_snapshot(index) and "new.jpg" in {row.path for row in index.rows()}


def test_a_text_search_loads_neither_lancedb_nor_ffmpeg(update: Callable[..., Store]) -> None:
    """They take longer to import than the search takes."""
    program = "import sys, perception_encoder.cli.main as pe\ntry: pe.main()\nfinally: print(sorted(sys.modules))"
    command = [sys.executable, "-c", program, "search", "a red mug", str(update().directory), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '"hits"' in run.stdout and "'torch'" in run.stdout
    assert not {"lancedb", "av", "pandas", "pyarrow.compute"} & set(run.stdout.rpartition("[")[2].split("'"))
