"""An index for other programs: its vectors as `pe embed` writes them, and FiftyOne datasets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import MissingExtraError, OutputError
from perception_encoder.inference.collection import read_collection
from perception_encoder.search.index import Index, open_index
from perception_encoder.search.storage.store import Store
from tests.clips import clip


@pytest.fixture
def index(checkpoint: Path, pictures: list[Path]) -> Index:
    for seconds in (4, 20):
        (pictures[0].parent / f"{seconds}.mp4").write_bytes(clip(10 * seconds, rate=10))
    index = open_index(pictures[0].parent, checkpoint)
    index.update()
    return index


@pytest.mark.parametrize("name", ["vectors", "vectors.parquet", "vectors.lance"])
def test_vectors_are_read_back_as_they_are(name: str, index: Index, pictures: list[Path], tmp_path: Path) -> None:
    out, store = tmp_path / "out" / name, Store.open(pictures[0].parent)
    out.parent.mkdir()
    assert index.export_vectors(out) == len(index) == len(store)
    read = read_collection(out)
    assert read is not None
    collection, settings = read
    assert settings["weight_hash"] == store.settings["weight_hash"]
    rows = store.rows()
    np.testing.assert_allclose(collection.vectors, np.stack([row.vector for row in rows]), atol=1e-6)
    assert [item.source for item in collection.items] == [store.directory / row.path for row in rows]
    assert [(item.start, item.end) for item in collection.items] == [(row.start, row.stop) for row in rows]
    assert sum(collection.is_video) == sum(row.kind == "video" for row in rows) >= 2
    with pytest.raises(OutputError, match="exists"):
        index.export_vectors(out)
    assert index.export_vectors(out, overwrite=True) == len(index)


def test_an_empty_index_is_not_written(checkpoint: Path, tmp_path: Path) -> None:
    index = open_index(tmp_path, checkpoint)
    assert index.update().rows == 0
    with pytest.raises(OutputError, match="is empty"):
        index.export_vectors(tmp_path / "vectors.parquet")


def test_the_command_says_what_it_wrote(run_pe, index: Index, pictures: list[Path], tmp_path: Path) -> None:
    run = run_pe("export", "vectors", pictures[0].parent, tmp_path / "v.parquet")
    assert run.status == 0 and f"{len(index)} embeddings in" in run.stdout


def test_without_fiftyone_it_is_named(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(MissingExtraError, match=r"\[fiftyone\]"):
        index.to_fiftyone("photos")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # FiftyOne's
@pytest.mark.skipif("FIFTYONE_DATABASE_URI" not in os.environ, reason="needs FiftyOne and a MongoDB")
def test_fiftyone_has_the_images_and_the_moments(index: Index, pictures: list[Path]) -> None:
    fiftyone = pytest.importorskip("fiftyone")
    rows = {row.id: row for row in Store.open(pictures[0].parent).rows()}
    counts = index.to_fiftyone("pe-test", overwrite=True)
    with pytest.raises(OutputError, match="has a dataset pe-test"):
        index.to_fiftyone("pe-test")
    assert sum(counts.values()) == len(rows)
    for name, count in counts.items():
        dataset = fiftyone.load_dataset(name)
        assert len(dataset) == count and dataset.persistent
        for sample in dataset:
            row = rows.pop(sample.pe_id)
            np.testing.assert_array_equal(sample.embedding, row.vector)
            assert sample.filepath == str(pictures[0].parent / row.path)
        fiftyone.delete_dataset(name)
    assert not rows
