"""Embeddings of files in memory, with those that could not be encoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import DataError
from perception_encoder.inference.collection import Collection, encode_media, list_media_items
from perception_encoder.inference.encoder import Encoder


@pytest.fixture
def collection(encoder: Encoder, image_files: list[Path]) -> Collection:
    image_files[3].write_bytes(b"")
    return encode_media(encoder, list_media_items([image_files[0].parent]), lambda done: None)


def test_items_and_vectors_keep_together_where_a_file_is_bad(
    encoder: Encoder, collection: Collection, image_files: list[Path]
) -> None:
    good = [path for path in image_files if path != image_files[3]]
    assert [item.source for item in collection.items] == good
    np.testing.assert_allclose(collection.vectors, encoder.encode_images(good), atol=1e-5)
    assert collection.is_video == [False] * 19
    assert collection.skipped == [{"path": str(image_files[3]), "reason": "is empty"}]
    assert collection.total == 20


def test_a_collection_counts_what_is_done(encoder: Encoder, image_files: list[Path]) -> None:
    done: list[int] = []
    encode_media(encoder, list_media_items(image_files), done.append)
    assert sum(done) == 20


def test_nothing_to_look_at_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images or videos in"):
        list_media_items([tmp_path])


def test_texts_of_a_table_are_no_media(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("text\na cat\n")
    collection = encode_media(encoder, list_media_items([tmp_path / "table.csv"]), lambda done: None)
    assert collection.vectors.shape == (0, encoder.dimension)
    assert [failure.source for failure in collection.failures] == [f"{tmp_path}/table.csv:1"]
