"""Results for the page's images: computed once, in the model's thread, and cached within a budget."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import ConfigError, MediaDecodeError
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.search.web.dense_images import ImageResults
from perception_encoder.search.web.library import MediaLibrary
from tests.clips import number_of

FIRST, SECOND, THIRD = (f"0{number}'s <b>.jpg" for number in (2, 4, 6))


class Computed:
    """A function of images that counts its calls."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []
        self.threads: set[int] = set()

    def __call__(self, image: Image.Image) -> np.ndarray:
        self.sizes.append(image.size)
        self.threads.add(threading.get_ident())
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def ids(library: MediaLibrary) -> dict[str, str]:
    return {row.path: row.id for row in library.index.rows()}


def test_a_result_is_computed_once_in_the_models_thread(library: MediaLibrary, ids: dict[str, str]) -> None:
    results, compute = ImageResults[np.ndarray](library, 1 << 20), Computed()
    with ThreadPoolExecutor(4) as pool:
        values = list(pool.map(lambda _: results.get(ids[FIRST], compute), range(8)))
    assert compute.sizes == [(80, 60)] and all(value is values[0] for value in values)
    assert compute.threads == {library.compute(threading.get_ident)}
    results.get(ids[FIRST], compute, variant="another")
    assert len(compute.sizes) == 2


def test_a_moment_is_its_frame(library: MediaLibrary) -> None:
    row = next(row for row in library.index.rows() if row.kind == "video")
    frame = ImageResults[np.ndarray](library, 1 << 20).get(row.id, Computed())
    assert number_of(Image.fromarray(frame)) == round(row.time * 10)


def test_what_was_used_longest_ago_leaves_the_cache(library: MediaLibrary, ids: dict[str, str]) -> None:
    size, compute = 80 * 60 * 3, Computed()
    two = ImageResults[np.ndarray](library, 2 * size)
    for path in (FIRST, SECOND, FIRST, THIRD, FIRST):
        two.get(ids[path], compute)
    assert len(compute.sizes) == 3
    two.get(ids[SECOND], compute)
    assert len(compute.sizes) == 4
    none = ImageResults[np.ndarray](library, 1)
    none.get(ids[FIRST], compute)
    none.get(ids[FIRST], compute)
    assert len(compute.sizes) == 5  # one is always cached
    assert DECODING._held == 0


def test_a_changed_file_is_computed_anew_and_a_bad_one_is_an_error(
    library: MediaLibrary, ids: dict[str, str], folder: Path
) -> None:
    results, compute = ImageResults[np.ndarray](library, 1 << 20), Computed()
    results.get(ids[FIRST], compute)
    Image.new("RGB", (30, 20)).save(folder / FIRST)
    results.get(ids[FIRST], compute)
    assert compute.sizes == [(80, 60), (30, 20)]
    (folder / FIRST).write_bytes(b"\xff\xd8\xff")
    with pytest.raises(MediaDecodeError, match="02's <b>"):
        results.get(ids[FIRST], compute)
    (folder / FIRST).unlink()
    with pytest.raises(ConfigError, match="not in the directory any more"):
        results.get(ids[FIRST], compute)
