"""An index for other programs: its vectors as `pe embed` writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import OutputError
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
