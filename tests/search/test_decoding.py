"""An index and a search of files decode large photographs and videos reduced, unless they are asked not to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import perception_encoder as pe
from perception_encoder.errors import SearchIndexError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.output_formats import read_embeddings
from perception_encoder.preprocess.image import open_image
from tests.clips import clip


@pytest.fixture
def photo(tmp_path: Path, encoder: Encoder) -> Path:
    """A photograph of eight times the model's size with fine texture, alone in its directory."""
    pattern = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    size = encoder.transform.size
    path = tmp_path / "photos" / "large.jpg"
    path.parent.mkdir()
    Image.fromarray(pattern).resize((8 * size, 6 * size)).save(path, quality=90)
    return path


def vector_of(index: pe.Index) -> np.ndarray:
    (row,) = [row for store in index._open() for row in store.rows()]
    assert row.width * 3 == row.height * 4 == 8 * 3 * 128  # those of the whole photograph
    return row.vector


def test_an_index_is_reduced_by_default(photo: Path, checkpoint: Path, encoder: Encoder) -> None:
    size = encoder.transform.size
    whole, reduced = (encoder.encode_images(open_image(photo, reduce_to=side)) for side in (None, 2 * size))
    index = pe.open_index(photo.parent, checkpoint, precision="float32")
    index.update()
    np.testing.assert_allclose(vector_of(index), reduced, rtol=0, atol=1e-5)
    with pytest.raises(SearchIndexError, match="decoding reduced, not exact"):
        pe.open_index(photo.parent, checkpoint, decoding="exact").update()
    exact = pe.open_index(photo.parent, checkpoint, precision="float32", decoding="exact")
    exact.update(rebuild=True)
    np.testing.assert_allclose(vector_of(exact), whole, rtol=0, atol=1e-5)
    again = pe.open_index(photo.parent)
    again.update(rebuild=True)
    assert again._open()[0].settings["decoding"] == "exact"  # as the old one
    assert again.search(open_image(photo))[0].score == pytest.approx(1, abs=1e-2)


def test_embeddings_say_how_their_images_were_decoded(photo: Path, checkpoint: Path, tmp_path: Path) -> None:
    vectors = {}
    for decoding in (None, "reduced"):
        out = tmp_path / f"{decoding}.parquet"
        pe.embed(photo, out, model=checkpoint, precision="float32", decoding=decoding)
        _, (vectors[decoding],), settings = read_embeddings(out)
        assert settings["decoding"] == (decoding or "exact")
        (hit,) = pe.search_files(Image.open(photo), out, checkpoint, precision="float32")
        assert hit.score <= 1.001
    assert np.abs(vectors[None] - vectors["reduced"]).max() > 1e-4
    for decoding, like in ((None, "reduced"), ("exact", None)):
        (hit,) = pe.search_files("a cat", photo, checkpoint, precision="float32", decoding=decoding)
        encoder = pe.load(checkpoint, precision="float32")
        assert hit.score == pytest.approx(float(vectors[like] @ encoder.encode_texts("a cat")), abs=1e-5)


@pytest.mark.parametrize(("decoding", "numbers"), [("reduced", [0, 20, 40]), ("exact", [0, 25, 50])])
def test_videos_of_an_index_are_sampled_at_key_frames(
    tmp_path: Path, checkpoint: Path, decoding: str, numbers: list[int]
) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip(60, group=20))
    index = pe.open_index(tmp_path, checkpoint, decoding=decoding)
    index.update()
    times = {row.time for store in index._open() for row in store.rows()}
    assert times <= {number / 25 for number in numbers}


def test_the_same_files_are_skipped_in_both_ways(photo: Path, checkpoint: Path) -> None:
    whole, video = photo.read_bytes(), clip(60, group=20)
    damaged = bytes(value ^ 0xFF if number % 97 == 0 else value for number, value in enumerate(video))
    contents = {
        "short.jpg": whole[: len(whole) // 2],
        "header.jpg": whole[:300],
        "short.mp4": video[: len(video) // 2],
        "damaged.mp4": damaged,
        "clip.mp4": video,
        "empty.mp4": b"",
    }
    for name, content in contents.items():
        (photo.parent / name).write_bytes(content)
    found = {}
    for decoding in ("exact", "reduced"):
        index = pe.open_index(photo.parent, checkpoint, precision="float32", decoding=decoding)
        report = index.update(rebuild=True)
        rows = {row.path for store in index._open() for row in store.rows()}
        found[decoding] = rows, sorted((error.source, error.reason) for error in report.skipped)
    assert found["reduced"] == found["exact"]
    assert {"clip.mp4", "large.jpg"} <= found["exact"][0] and "short.jpg" not in found["exact"][0]
