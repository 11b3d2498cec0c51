"""Media and their embeddings in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perception_encoder.inference.collection import encode_media, list_media_items
from perception_encoder.inference.encoder import Encoder


def test_items_and_vectors_stay_together_if_a_file_is_bad(encoder: Encoder, image_files: list[Path]) -> None:
    image_files[3].write_bytes(b"")
    done: list[int] = []

    def track(results, description, total):
        for result in results:
            yield result
            done.append(total)

    collection = encode_media(encoder, list_media_items([image_files[0].parent]), track)
    good = [path for path in image_files if path != image_files[3]]
    assert [item.source for item in collection.items] == good
    np.testing.assert_allclose(collection.vectors, encoder.encode_images(good), atol=1e-5)
    assert collection.is_video == [False] * 19
    assert [error.to_dict() for error in collection.failures] == [{"path": str(image_files[3]), "reason": "is empty"}]
    assert collection.total == len(done) == done[0] == 20


def test_texts_of_a_table_are_not_media(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("text\na cat\n")
    collection = encode_media(encoder, list_media_items([tmp_path / "table.csv"]))
    assert collection.vectors.shape == (0, encoder.dimension)
    assert [failure.source for failure in collection.failures] == [f"{tmp_path}/table.csv:1"]
