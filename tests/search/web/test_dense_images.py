"""Results for the page's images: computed once and cached within a budget; depth as `pe depth` estimates it."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.dense_prediction import dense_model
from perception_encoder.dense_prediction.depth import DepthHead
from perception_encoder.dense_prediction.drawing import depth_colours
from perception_encoder.dense_prediction.heads import load_head
from perception_encoder.errors import CheckpointError, ConfigError, MediaDecodeError
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.search.web.dense_images import DepthMaps, ImageResults
from perception_encoder.search.web.library import MediaLibrary
from tests.clips import HEIGHT, WIDTH, number_of
from tests.search.web.heads import write_depth_head

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
    with pytest.raises(ConfigError, match="no longer in the directory"):
        results.get(ids[FIRST], compute)


PHOTO = "04's <b>.jpg"


def id_of(library: MediaLibrary, path: str) -> str:
    return next(row.id for row in library.index.rows() if row.path == path)


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_it_is_the_depth_that_the_command_estimates(
    library: MediaLibrary, folder: Path, depth_head: Path, checkpoint: Path
) -> None:
    """The head's encoder is the index's own, a checkpoint; the command needs its name."""
    depth = DepthMaps(library, depth_head).map(id_of(library, PHOTO))
    head = load_head(depth_head, task="depth", model=str(checkpoint))
    model, info = head.model, head.info
    assert isinstance(model.head, DepthHead)
    with Image.open(folder / PHOTO) as image:
        metres = model.head.predict(model.map_of(image, info.image_size), (60, 80))[0].numpy()
        assert np.abs(np.asarray(opened(depth.image), int) - np.asarray(image, int)).mean() < 8
    np.testing.assert_allclose(depth.metres, metres, rtol=1e-5)
    assert metres.max() > 1.05 * metres.min() > 0
    assert np.array_equal(np.asarray(opened(depth.colours)), depth_colours(depth.metres))
    assert depth.at(0, 0) == depth.metres[0, 0] and depth.at(1, 1) == depth.metres[-1, -1]
    assert depth.at(0.5, 0.25) == depth.metres[15, 40]


def test_a_moment_is_its_frame_and_large_images_are_reduced(
    library: MediaLibrary, folder: Path, depth_head: Path, draw: Callable[[int], Image.Image]
) -> None:
    images = DepthMaps(library, depth_head)
    row = next(row for row in library.index.rows() if row.kind == "video")
    depth = images.map(row.id)
    assert number_of(opened(depth.image)) == round(row.time * 10) and depth.metres.shape == (HEIGHT, WIDTH)
    draw(4).resize((2000, 1500)).convert("L").save(folder / PHOTO)
    reduced = images.map(id_of(library, PHOTO))
    assert opened(reduced.image).size == opened(reduced.colours).size == (960, 720)
    assert reduced.metres.shape == (720, 960)
    assert reduced.nbytes > reduced.metres.nbytes + len(reduced.image)


def test_a_head_is_loaded_for_the_first_image_and_once(
    library: MediaLibrary, depth_head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []
    load = dense_model.load_read_head
    monkeypatch.setattr(dense_model, "load_read_head", lambda *given: (loads.append(given[0]), load(*given))[1])
    images = DepthMaps(library, depth_head)
    assert loads == []
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(images.map, [id_of(library, f"0{number}'s <b>.jpg") for number in (2, 4, 6, 8)]))
    assert loads == [depth_head]


def test_heads_that_cannot_be_used(library: MediaLibrary, depth_head: Path, checkpoint: Path, tmp_path: Path) -> None:
    row_id = id_of(library, PHOTO)
    other = write_depth_head(tmp_path / "other.safetensors", checkpoint, weights="0" * 64)
    with pytest.raises(ConfigError, match=r"belongs to .*, layer 2, with weights 000000000000; the given encoder has"):
        DepthMaps(library, other).map(row_id)
    classes = write_depth_head(tmp_path / "classes.safetensors", checkpoint, task="segmentation")
    with pytest.raises(ConfigError, match="is a head for segmentation, not for depth"):
        DepthMaps(library, classes).map(row_id)
    (tmp_path / "damaged.safetensors").write_bytes(depth_head.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"damaged\.safetensors: empty, damaged"):
        DepthMaps(library, tmp_path / "damaged.safetensors").map(row_id)
    images = DepthMaps(library, tmp_path / "late.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        images.map(row_id)
    write_depth_head(tmp_path / "late.safetensors", checkpoint)
    assert images.map(row_id).metres.shape == (60, 80)  # it is tried again
