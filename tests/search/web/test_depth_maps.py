"""Depth of the page's images: as `pe depth` estimates it, by a head that is loaded once."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.dense_prediction.depth import DepthHead
from perception_encoder.dense_prediction.drawing import depth_colours
from perception_encoder.dense_prediction.heads import load_head
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.search.web import dense_images
from perception_encoder.search.web.dense_images import DepthMaps
from perception_encoder.search.web.library import MediaLibrary
from tests.clips import HEIGHT, WIDTH, number_of
from tests.search.web.heads import write_depth_head

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
    load = dense_images.load_read_head
    monkeypatch.setattr(dense_images, "load_read_head", lambda *given: (loads.append(given[0]), load(*given))[1])
    images = DepthMaps(library, depth_head)
    assert loads == []
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(images.map, [id_of(library, f"0{number}'s <b>.jpg") for number in (2, 4, 6, 8)]))
    assert loads == [depth_head]


def test_heads_that_cannot_be_used(library: MediaLibrary, depth_head: Path, checkpoint: Path, tmp_path: Path) -> None:
    row_id = id_of(library, PHOTO)
    other = write_depth_head(tmp_path / "other.safetensors", checkpoint, weights="0" * 64)
    with pytest.raises(ConfigError, match=r"belongs to .*, layer 2, with weights 000000000000; the encoder that was"):
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
