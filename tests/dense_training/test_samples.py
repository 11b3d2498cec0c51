"""Images and targets are augmented together."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from perception_encoder.datasets.class_masks import UNSCORED
from perception_encoder.datasets.instances import read_instance_splits
from perception_encoder.dense_training.batches import Augmenter, ClassSamples, DepthSamples, ObjectSamples
from tests.datasets.drawn import drawn_masks, label_maps, pairs, rooms, write_instances
from tests.evaluation.layers import png

GREY = (127, 127, 127)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_depth_moves_with_its_image() -> None:
    """Images show depth as grey, so that both can be compared pixel by pixel."""
    samples = DepthSamples(pairs("room", rooms(1, 0)))
    image, targets = samples.read(0)
    for seed in range(8):
        pixels, moved = Augmenter(32, (0.5, 2.0), 0.5, GREY)(image, targets, generator(seed))
        depth = moved["depth"]
        assert pixels.shape == (3, 32, 32) and pixels.dtype == torch.uint8 and depth.shape == (32, 32)
        known = depth > 0
        difference = (pixels[0].float() - 40 * depth).abs()[known]
        assert (difference.median() < 3 and (pixels[:, ~known] == 127).float().mean().item() > 0.9) or known.all()


def test_labels_are_padded_as_not_scored() -> None:
    samples = ClassSamples(drawn_masks("m", label_maps(1, 0)))
    image, targets = samples.read(0)
    assert set(targets["labels"].unique().tolist()) == {1, 2, 3}  # 0 is what padding is
    _, moved = Augmenter(32, (0.5, 0.5), 0, GREY)(image, targets, generator())
    assert (moved["labels"] == 0).sum() >= 32 * 32 * 3 // 4 and UNSCORED == -1


def test_boxes_are_those_of_their_masks() -> None:
    image = Image.fromarray(np.full((48, 64, 3), 90, np.uint8))
    masks = torch.zeros(2, 48, 64, dtype=torch.uint8)
    masks[0, 8:30, 10:30], masks[1, 20:44, 40:60] = 1, 1
    boxes = torch.tensor([[10.0, 8, 30, 30], [40, 20, 60, 44]])
    targets = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks}
    seen = set()
    for seed in range(12):
        _, moved = Augmenter(64, (0.6, 5.0), 0.5, GREY)(image, targets, generator(seed))
        seen.add(len(moved["boxes"]))
        assert len(moved["boxes"]) == len(moved["labels"]) == len(moved["masks"])
        for box, mask in zip(moved["boxes"], moved["masks"], strict=True):
            rows, columns = torch.nonzero(mask, as_tuple=True)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert seen >= {1, 2}  # an object that is cropped away is left out


def test_boxes_of_cropped_masks_are_computed_anew() -> None:
    """A ring's corner: the box of the crop of its box would be far larger than what is left of its mask."""
    image = Image.fromarray(np.full((64, 64, 3), 90, np.uint8))
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, :, 60:], masks[0, 60:] = 1, 1
    targets = {"boxes": torch.tensor([[0.0, 0, 64, 64]]), "labels": torch.tensor([1]), "masks": masks}
    smaller = 0
    for seed in range(30):
        _, moved = Augmenter(64, (1.3, 1.3), 0, GREY)(image, targets, generator(seed))
        for box, mask in zip(moved["boxes"], moved["masks"], strict=True):
            rows, columns = torch.nonzero(mask, as_tuple=True)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            smaller += (box[2:] - box[:2]).prod() < 64 * 64 / 2
        assert len(moved["boxes"]) == int(moved["masks"].any())
    assert smaller > 3


def test_a_smaller_image_lies_top_left() -> None:
    image = Image.fromarray(np.full((48, 64, 3), 90, np.uint8))
    targets = {"boxes": torch.tensor([[0.0, 0, 64, 48]]), "labels": torch.tensor([1])}
    for seed in range(4):
        pixels, moved = Augmenter(64, (0.5, 0.5), 0.5, (1, 2, 3))(image, targets, generator(seed))
        assert moved["boxes"].tolist() == [[0, 0, 32, 24]] and moved["inside"].tolist() == [24, 32]
        assert (pixels[:, :24, :32] == 90).all()
        for channel, value in enumerate((1, 2, 3)):
            assert (pixels[channel, 24:] == value).all() and (pixels[channel, :, 32:] == value).all()


def test_a_larger_image_is_cropped_anywhere() -> None:
    image = Image.fromarray(np.arange(64 * 64, dtype=np.uint16).astype(np.uint8).reshape(64, 64)).convert("RGB")
    crops = {Augmenter(64, (2.0, 2.0), 0, GREY)(image, {}, generator(seed))[0].sum().item() for seed in range(6)}
    assert len(crops) > 3


def test_a_smaller_image_is_antialiased() -> None:
    """Columns of one pixel, black and white in turn, are grey at a third of the size."""
    columns = np.zeros((48, 48, 3), np.uint8)
    columns[:, ::2] = 255
    pixels, _ = Augmenter(16, (1.0, 1.0), 0, GREY)(Image.fromarray(columns), {}, generator())
    assert pixels.float().sub(127.5).abs().max() < 50


def test_the_same_draw_gives_the_same_sample() -> None:
    image, targets = DepthSamples(pairs("room", rooms(1, 0))).read(0)
    augmenter = Augmenter(32, (0.5, 2.0), 0.5, GREY)
    one, two, other = (augmenter(image, targets, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1]["depth"], two[1]["depth"])
    assert not torch.equal(one[0], other[0])


def test_an_image_of_another_size_than_its_target_is_scaled() -> None:
    images = pairs("room", rooms(1, 0))
    larger = png(np.asarray(images.open(0).resize((64, 48))))
    image, targets = DepthSamples(dataclasses.replace(images, images=(larger,))).read(0)
    assert image.size == (32, 24) and targets["depth"].shape == (24, 32)


def test_objects_of_a_dataset(tmp_path: Path) -> None:
    train, _ = read_instance_splits(write_instances(tmp_path, {"train": 2, "test": 1}))
    _, targets = ObjectSamples(train).read(0)
    assert targets["masks"].shape[1:] == (48, 64) and len(targets["masks"]) == len(targets["boxes"]) == 2
    assert "masks" not in ObjectSamples(train, masks=False).read(0)[1]


def test_crowds_are_not_learned(tmp_path: Path) -> None:
    place = write_instances(tmp_path, {"train": 1, "test": 1})
    file = place / "train" / "instances.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(content), encoding="utf-8")
    train, _ = read_instance_splits(place)
    _, targets = ObjectSamples(train).read(0)
    assert [len(targets[name]) for name in ("boxes", "labels", "masks")] == [1, 1, 1]
    left, top, width, height = content["annotations"][1]["bbox"]
    assert targets["boxes"].tolist() == [[left, top, left + width, top + height]]


def test_holes_in_depth_stay_holes() -> None:
    depths = rooms(1, 0)
    depths[0, 4:9, 6:12] = 0
    image, targets = DepthSamples(pairs("room", depths)).read(0)
    assert (targets["depth"][4:9, 6:12] == 0).all()
    _, moved = Augmenter(32, (1.0, 1.0), 0, GREY)(image, targets, generator())
    known = moved["depth"][moved["depth"] > 0]
    assert (moved["depth"] == 0).any() and known.min() >= depths[depths > 0].min() - 1e-3  # nothing is interpolated
