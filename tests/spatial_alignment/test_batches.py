"""Images with their masks, and batches of a spatial alignment: one augmentation for all, ranks, cached masks."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.errors import ConfigError, DataError, InputError, OutputError
from perception_encoder.formats.shards import write_members
from perception_encoder.models.registry import BUILTIN, find_model
from perception_encoder.preprocess.augmentation import DRAWS, Augmentation
from perception_encoder.preprocess.image import image_file
from perception_encoder.ranks import ALONE, Rank
from perception_encoder.spatial_alignment.batches import (
    AlignmentImage,
    AugmentedImages,
    SpatialBatches,
    cache_settings,
    copy_draw,
    fill_cache,
    held_out_batches,
    open_images,
)
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.spatial_alignment.mask_teachers import TeacherCache
from tests.evaluation.layers import png
from tests.spatial_alignment.conftest import scene

VISION = find_model(BUILTIN).vision
CONFIG = SpatialConfig(masks="scenes", batch_size=8, image_size=64, seed=3)
IMAGES = AugmentedImages(64, 16, Augmentation(scale=(0.4, 1.0)))


def batches(images: list[AlignmentImage], rank: Rank = ALONE, config: SpatialConfig = CONFIG) -> SpatialBatches:
    return SpatialBatches(config, VISION, [images], IMAGES, rank)


def test_the_mask_is_cut_and_mirrored_as_its_image(scenes: Path) -> None:
    """An image that is its own mask stays so through the augmentation."""
    image = open_images(scenes)[0]
    ids = torch.zeros(64, 64, dtype=torch.long)
    ids[:, 32:] = 1

    class Fixed(AlignmentImage):
        def open(self, with_mask=True, content=None):
            return (200 * ids).to(torch.uint8).expand(3, 64, 64), ids

    fixed = Fixed(**vars(image))
    for seed in range(12):
        draw = np.random.default_rng(seed).random(DRAWS).tolist()
        pixels, tokens = replace(IMAGES, augmentation=Augmentation(brightness=0, saturation=0)).make(fixed, draw)
        bright = torch.nn.functional.avg_pool2d(pixels[:1].float(), 16).flatten() / 200
        assert tokens is not None
        bright_tokens = tokens[:, -1] if tokens.shape[1] == 2 else bright.round()
        torch.testing.assert_close(bright, bright_tokens, atol=0.06, rtol=0)


def test_ranks_make_the_batch_of_one_process(scenes: Path) -> None:
    images = open_images(scenes)
    whole = batches(images)(5)
    parts = [batches(images, Rank(rank=number, world_size=3))(5) for number in range(3)]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.hidden for part in parts]), whole.hidden)
    assert torch.equal(torch.cat([part.branches for part in parts], dim=2), whole.branches)
    assert {len(part) for part in (*parts, whole)} == {8}  # reports tell the speed of all ranks together
    assert sum(part.share for part in parts) == pytest.approx(1) == sum(part.mask_share for part in parts)
    assert whole.hidden.float().mean() == 0.75 and whole.masks is not None and len(whole.masks) == 8
    assert not torch.equal(batches(images)(6).images, whole.images)


def test_images_that_cannot_be_used_are_replaced_and_named(
    scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = png(np.zeros((12, 40, 3), np.uint8))
    write_members(tmp_path / "bad.tar", [("a.png", small), ("b.png", b"no image")])
    good, bad = open_images(scenes), open_images(tmp_path)
    made = batches([*good[:10], *bad])
    with caplog.at_level(logging.WARNING):
        for step in range(6):
            assert len(made(step)) == 8
    assert caplog.text.count("is 40x12 pixels, smaller than a patch of 16") == 1
    assert caplog.text.count("b.png") == 1
    with pytest.raises(DataError, match="8 consecutive images are unusable"):
        batches(bad)(0)
    assert len(held_out_batches(CONFIG, [*bad, good[0]], IMAGES, lambda items, *_: items)) == 1


class Thirds:
    """A mask teacher whose masks are the dark, the middle and the light pixels."""

    identity = "thirds"

    def masks(self, image: torch.Tensor) -> torch.Tensor:
        lightness = image.float().mean(0)
        return torch.stack([lightness < 85, (lightness >= 85) & (lightness < 170), lightness >= 170], dim=-1).float()


def test_cached_masks_are_those_of_the_replayed_augmentations(scenes: Path, tmp_path: Path) -> None:
    images = open_images(scenes)[:10]
    augmented = replace(IMAGES, teacher=Thirds(), seed=CONFIG.seed)
    config = replace(CONFIG, masks="thirds", copies=2)
    path = tmp_path / "masks"
    assert len(fill_cache(config, images[:6], augmented, path)) == 12
    cache = fill_cache(config, images, augmented, path)
    assert len(cache) == 20
    cached = SpatialBatches(config, VISION, [images], replace(augmented, teacher=cache), ALONE)(2)
    live = SpatialBatches(config, VISION, [images], augmented, ALONE)(2)
    assert torch.equal(cached.images, live.images)
    torch.testing.assert_close(cached.masks, live.masks, atol=1e-3, rtol=1e-3)
    (whole,) = held_out_batches(config, images[:3], augmented, lambda items, *_: items)
    assert torch.equal(whole.images, torch.stack([image.open(False)[0] for image in images[:3]]))
    stored = replace(augmented, teacher=cache)
    (first_copies,) = held_out_batches(config, images[:3], stored, lambda items, *_: items)
    assert torch.equal(first_copies.images, torch.stack([augmented.make(image, 0)[0] for image in images[:3]]))
    assert copy_draw(0, "0a", 0) != copy_draw(0, "0a", 1) != copy_draw(1, "0a", 1) != copy_draw(1, "0b", 1)


@pytest.mark.parametrize("layout", ["directory", "tar"])
def test_images_of_equal_names_have_their_own_masks(tmp_path: Path, layout: str) -> None:
    """Two datasets with an image of one name; a third has the first's image under another name."""
    sources = []
    for directory, name, number in (("one", "a", 1), ("two", "a", 2), ("three", "b", 1)):
        (tmp_path / directory).mkdir()
        content = png(scene(number)[0])
        if layout == "tar":
            write_members(tmp_path / directory / "0.tar", [(f"{name}.png", content)])
        else:
            (tmp_path / directory / f"{name}.png").write_bytes(content)
        sources.append(open_images(tmp_path / directory))
    augmented = replace(IMAGES, teacher=Thirds(), seed=3)
    config = replace(CONFIG, masks="thirds", copies=2)
    cache = fill_cache(config, [image for source in sources for image in source], augmented, tmp_path / "m")
    assert len(cache) == 4, "two contents, two copies each"
    cached = replace(augmented, teacher=cache)
    made = [[item.make(source[0], copy) for item in (augmented, cached)] for source in sources for copy in range(2)]
    for (image, live), (again, stored) in made:
        assert torch.equal(image, again)
        torch.testing.assert_close(stored, live, atol=1e-3, rtol=1e-3)
    assert torch.equal(made[0][0][0], made[4][0][0]), "a copy is augmented by its content alone"
    assert not torch.equal(made[0][0][0], made[2][0][0])


def test_a_cache_belongs_to_its_settings(scenes: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, masks="thirds", copies=1)
    augmented = replace(IMAGES, teacher=Thirds())
    fill_cache(config, open_images(scenes)[:1], augmented, tmp_path / "m")
    for other, name in ((replace(config, seed=9), "seed"), (replace(config, copies=2), "copies")):
        with pytest.raises(OutputError, match=f"was made with {name}"):
            TeacherCache(tmp_path / "m", cache_settings(other, augmented))
    with pytest.raises(ConfigError, match="set copies"):
        fill_cache(replace(config, copies=0), [], augmented, tmp_path / "n")


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


@pytest.mark.parametrize(
    ("shape", "message"), [((4, 5), "is 5x4 pixels, but its image is 8x8"), ((8, 8, 3), "has the mode RGB")]
)
def test_a_mask_of_another_size_or_of_colours_is_an_error(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    members = {"a.png": (8, 8, 3), "a.mask.png": shape}
    write_members(tmp_path / "0.tar", [(name, png(np.zeros(s, np.uint8))) for name, s in members.items()])
    (image,) = open_images(tmp_path)
    with pytest.raises(InputError, match=message):
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
    members = [("a.png", png(np.zeros((8, 8, 3), np.uint8))), ("a.mask.png", image_file(image, "PNG"))]
    write_members(tmp_path / "0.tar", members)
    (found,) = open_images(tmp_path)
    assert (found.open()[1].numpy() == numbers).all()


def test_missing_and_damaged_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no images"):
        open_images(tmp_path)
    with pytest.raises(DataError, match="none does not exist"):
        open_images(tmp_path / "none")
    (tmp_path / "a.tar").write_bytes(b"no tar")
    with pytest.raises(DataError, match=r"a\.tar: not a readable tar"):
        open_images(tmp_path)
