"""Images of directories and tars, with their masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import DataError, InputError
from perception_encoder.formats.shards import write_members
from perception_encoder.preprocess.image import image_file
from perception_encoder.spatial_alignment.batches import open_images
from tests.spatial_alignment.conftest import encoded, scene


def test_scenes_come_with_their_masks(scenes: Path) -> None:
    for path in (scenes, scenes / "train", scenes / "train" / "00000.tar"):
        images = open_images(path)
        assert len(images) == 24 and images[3].key == "00000/03"
        pixels, mask = images[3].open()
        expected = scene(3)
        assert (pixels.permute(1, 2, 0).numpy() == expected[0]).all()
        assert mask is not None and (mask.numpy() == expected[1]).all()


def test_a_directory_of_images_has_none(tmp_path: Path) -> None:
    for name in ("a/1.png", "b.jpg", "c.txt", "d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 10)).save(tmp_path / name, "PNG")
    images = open_images(tmp_path)
    assert [image.key for image in images] == ["a/1.png", "b.jpg"]
    pixels, mask = images[0].open()
    assert pixels.shape == (3, 10, 20) and mask is None


def test_a_mask_of_another_size_is_an_error(tmp_path: Path) -> None:
    mask = encoded(np.zeros((4, 5), np.uint8), "PNG")
    write_members(tmp_path / "0.tar", [("a.png", encoded(np.zeros((8, 8, 3), np.uint8), "PNG")), ("a.mask.png", mask)])
    (image,) = open_images(tmp_path)
    with pytest.raises(InputError, match=r"the mask of .*0\.tar/a\.png: is 5x4 pixels, but its image is 8x8"):
        image.open()


@pytest.mark.parametrize("mode", ["P", "I;16", "1"])
def test_a_mask_of_any_kind_keeps_its_numbers(tmp_path: Path, mode: str) -> None:
    """16 bits were scaled to 8, so that objects 1 to 128 became background; a palette ended the run."""
    numbers = np.arange(64, dtype=np.uint8).reshape(8, 8) % (2 if mode == "1" else 64)
    image = Image.fromarray(
        numbers.astype(bool) if mode == "1" else numbers.astype(np.uint16 if mode == "I;16" else np.uint8)
    )
    if mode == "P":
        image.putpalette(bytes(range(192)))
    members = [("a.png", encoded(np.zeros((8, 8, 3), np.uint8), "PNG")), ("a.mask.png", image_file(image, "PNG"))]
    write_members(tmp_path / "0.tar", members)
    (found,) = open_images(tmp_path)
    assert (found.open()[1].numpy() == numbers).all()


def test_a_mask_of_colours_is_an_error(tmp_path: Path) -> None:
    picture = encoded(np.zeros((8, 8, 3), np.uint8), "PNG")
    write_members(tmp_path / "0.tar", [("a.png", picture), ("a.mask.png", picture)])
    (image,) = open_images(tmp_path)
    with pytest.raises(InputError, match="has the mode RGB; a mask must have one channel or a palette"):
        image.open()


def test_missing_and_damaged_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no images"):
        open_images(tmp_path)
    with pytest.raises(DataError, match="none does not exist"):
        open_images(tmp_path / "none")
    (tmp_path / "a.tar").write_bytes(b"no tar")
    with pytest.raises(DataError, match=r"a\.tar: not a readable tar"):
        open_images(tmp_path)
