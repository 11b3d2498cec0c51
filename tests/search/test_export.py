"""An index for other programs: its vectors as `pe embed` writes them, and FiftyOne datasets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import MissingExtraError, OutputError
from perception_encoder.inference.collection import read_collection
from perception_encoder.search.index import export_fiftyone, export_vectors
from perception_encoder.search.storage.store import Store
from perception_encoder.search.storage.update import update_index, writable_index
from tests.clips import clip


@pytest.fixture
def index(checkpoint: Path, pictures: list[Path]) -> Store:
    folder = pictures[0].parent
    (folder / "clip.mp4").write_bytes(clip(200, rate=10))
    with writable_index(folder, str(checkpoint)) as (index, encoder):
        update_index(index, encoder)
    return Store.open(folder)


@pytest.mark.parametrize("name", ["vectors", "vectors.parquet", "vectors.lance"])
def test_vectors_are_read_back_as_they_are(name: str, index: Store, tmp_path: Path) -> None:
    out = tmp_path / "out" / name
    out.parent.mkdir()
    assert export_vectors(index, out) == len(index)
    read = read_collection(out)
    assert read is not None
    collection, settings = read
    assert settings["weight_hash"] == index.settings["weight_hash"]
    rows = index.rows()
    np.testing.assert_allclose(collection.vectors, np.stack([row.vector for row in rows]), atol=1e-6)
    assert [item.source for item in collection.items] == [index.directory / row.path for row in rows]
    assert [(item.start, item.end) for item in collection.items] == [(row.start, row.stop) for row in rows]
    assert sum(collection.is_video) == sum(row.kind == "video" for row in rows) >= 2
    with pytest.raises(OutputError, match="exists"):
        export_vectors(index, out)
    assert export_vectors(index, out, overwrite=True) == len(index)


def test_an_empty_index_is_not_written(checkpoint: Path, tmp_path: Path) -> None:
    with writable_index(tmp_path, str(checkpoint)) as (index, _), pytest.raises(OutputError, match="is empty"):
        export_vectors(index, tmp_path / "vectors.parquet")


def test_the_command_says_what_it_wrote(run_pe, index: Store, tmp_path: Path) -> None:
    run = run_pe("export", "vectors", index.directory, tmp_path / "v.parquet")
    assert run.status == 0 and f"{len(index)} embeddings in" in run.stdout


def test_without_fiftyone_it_is_named(index: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(MissingExtraError, match=r"\[fiftyone\]"):
        export_fiftyone(index, "photos")


@pytest.mark.skipif("FIFTYONE_DATABASE_URI" not in os.environ, reason="needs FiftyOne and a MongoDB")
def test_fiftyone_has_the_images_and_the_moments(index: Store) -> None:
    fiftyone = pytest.importorskip("fiftyone")
    rows = {row.id: row for row in index.rows()}
    counts = export_fiftyone(index, "pe-test", overwrite=True)
    with pytest.raises(OutputError, match="has a dataset pe-test"):
        export_fiftyone(index, "pe-test")
    assert sum(counts.values()) == len(rows)
    for name, count in counts.items():
        dataset = fiftyone.load_dataset(name)
        assert len(dataset) == count and dataset.persistent
        for sample in dataset:
            row = rows.pop(sample.pe_id)
            np.testing.assert_array_equal(sample.embedding, row.vector)
            assert sample.filepath == str(index.directory / row.path)
        fiftyone.delete_dataset(name)
    assert not rows
