"""`--exclude` and `.peignore` with an index: kept by later updates, removed rows, and searches."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import perception_encoder as pe
from perception_encoder.errors import ConfigError, SearchIndexError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.search.storage.database import DATABASE
from perception_encoder.search.storage.store import EXCLUDED, STORE, IndexStore
from perception_encoder.search_page.library import MediaLibrary, open_library
from tests.damage import at_most, plant_pipe
from tests.search.indexes import hits


def paths(photos: Path) -> set[str]:
    """The indexed paths."""
    return set(IndexStore.open(photos).files())


def test_an_update_removes_what_is_excluded_now_and_keeps_the_patterns(photos: Path, encoder: Encoder) -> None:
    odd = ("\udcff*.jpg", "\\#a", "a\nb", " ", "#")  # kept as they are given
    index = pe.open_index(photos, encoder)
    report = index.update(exclude=["may/", "00.*"])
    assert (report.added, report.rows) == (11, 11) and "00.jpg" not in paths(photos)
    assert index.update().added == 0 and pe.open_index(photos, encoder).update(rebuild=True).added == 11
    (photos / ".peignore").write_text("0[1-9].jpg\n")
    report = pe.open_index(photos, encoder).update()
    assert (report.added, report.deleted, report.rows) == (0, 9, 2) and paths(photos) == {"10.jpg", "11.jpg"}
    with pytest.raises(ConfigError, match="a pattern is invalid"):
        pe.open_index(photos, encoder).update(exclude=["!"])
    (photos / ".peignore").unlink()
    assert pe.open_index(photos, encoder).update(exclude=[]).rows == 20
    assert pe.open_index(photos, encoder).update(exclude=["*"]).rows == 0
    pe.open_index(photos, encoder).update(exclude=odd)
    assert IndexStore.open(photos).excluded == list(odd) and pe.open_index(photos, encoder).update().rows == 20
    for content in ("{", "[1, 2]", '"raw/"', '["!"]', "[" * 100_000, json.dumps(["*" * 100_000])):
        (photos / ".pe-index" / EXCLUDED).write_text(content)
        with pytest.raises(SearchIndexError, match=r"exclude\.json cannot be read"):
            pe.open_index(photos, encoder).update()
    assert pe.open_index(photos, encoder).update(exclude=["raw/"]).rows == 20


def test_the_patterns_outlive_a_damaged_index(photos: Path, encoder: Encoder) -> None:
    pe.open_index(photos, encoder).update(exclude=["may/"])
    (photos / STORE / DATABASE).write_bytes(b"damaged")
    assert pe.open_index(photos, encoder, index=photos).update(rebuild=True).rows == 12


def test_an_invalid_pattern_creates_no_index(photos: Path) -> None:
    for fail in (
        lambda: pe.open_index(photos, "missing").update(exclude=["!"]),
        lambda: open_library(photos, exclude=["!"]),
    ):
        with pytest.raises(ConfigError, match="a pattern is invalid"):
            fail()
    assert not (photos / ".pe-index").exists()


def test_an_unusable_peignore_neither_adds_nor_removes_files(photos: Path, encoder: Encoder) -> None:
    pe.open_index(photos, encoder).update()
    plant_pipe(pipe := photos / "2024's" / ".peignore")
    (photos / "2024's" / "new.jpg").write_bytes((photos / "00.jpg").read_bytes())
    for _ in ("pipe", "directory"):
        with at_most(60, pipe):
            report = pe.open_index(photos, encoder).update()
        assert (report.added, report.deleted, report.moved, report.rows) == (0, 0, 0, 20)
        assert [str(error).partition(": ")[2] for error in report.skipped] == [
            f"cannot be listed: its .peignore: {pipe} is not a regular file; remove it"
        ]
        if pipe.is_fifo():
            pipe.unlink()
            pipe.mkdir()


def test_searches_leave_out_files_with_and_without_an_index(run_pe, photos: Path, checkpoint: Path) -> None:
    search = ("search", "a cat", "--top", "20", "--json", "--model", checkpoint)
    expected = {str(path) for path in photos.rglob("*.jpg") if path.name not in ("00.jpg", "12.jpg")}
    nothing = run_pe(*search, photos, "--exclude", "*")
    assert nothing.status == 2 and "no images or videos that are not excluded in" in nothing.stderr
    for _ in range(2):
        assert hits(run_pe(*search, photos, "--exclude", "00.jpg", "--exclude", "/2024's/may/12.*")) == expected
        assert len(hits(run_pe(*search, photos / "2024's", "--exclude", "/may/12.*"))) == 7
        assert run_pe("index", photos, "--model", checkpoint).status == 0
    few = run_pe("search", "a cat", "--top", "1", "--json", photos, "--exclude", "*", "--exclude", "!07.jpg")
    assert hits(few) == {str(photos / "07.jpg")}  # however far down
    run = run_pe(*search, photos, "--exclude", "!")
    assert run.status == 2 and run.stderr.startswith("error: a pattern is invalid: ") and run.stderr.count("\n") == 1
    (photos / "00.jpg").rename(photos / "copy.jpg")
    (photos / "01.jpg").write_bytes((photos / "copy.jpg").read_bytes())
    assert run_pe("index", photos, "--exclude", "may/").status == 0
    groups = json.loads(run_pe("near-duplicates", photos, "--json").stdout)["groups"]
    assert [{Path(hit["path"]).name for hit in group} for group in groups] == [{"01.jpg", "copy.jpg"}]
    assert not json.loads(run_pe("near-duplicates", photos, "--json", "--exclude", "copy*").stdout)["groups"]


def test_embed_leaves_out_files(run_pe, photos: Path, checkpoint: Path, tmp_path: Path) -> None:
    (photos / ".peignore").write_text("may/\n")
    out = tmp_path / "vectors.parquet"
    assert run_pe("embed", photos, "-o", out, "-m", checkpoint, "--exclude", "0*").status == 0
    assert sorted(Path(path).name for path in pq.read_table(out)["path"].to_pylist()) == ["10.jpg", "11.jpg"]
    run = run_pe("embed", photos, "-o", out, "-m", checkpoint, "--exclude", "*")
    assert run.status == 2 and "no images, videos or texts that are not excluded in" in run.stderr


def test_the_page_keeps_to_the_patterns(photos: Path, checkpoint: Path) -> None:
    library: MediaLibrary = open_library(photos, ModelSpec(checkpoint), exclude=["may/"])
    library.update()
    library.index.refresh()
    assert not library.progress.error and len(library.index.files()) == 12
    assert len(open_library(photos).index.files()) == 12
    library = open_library(photos, exclude=["may/", "0*"])
    library.update()
    library.index.refresh()
    assert len(library.index.files()) == 2
