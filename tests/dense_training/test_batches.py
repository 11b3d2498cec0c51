"""Batches are a pure function of the step, bad images are left out; the losses of the three heads."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.datasets.class_masks import UNSCORED
from perception_encoder.datasets.instances import read_instance_splits
from perception_encoder.dense_prediction.dense_model import Backbone, DenseModel, make_head
from perception_encoder.dense_training.batches import (
    Augmenter,
    DenseBatches,
    DenseSamples,
    RepeatSampler,
)
from perception_encoder.dense_training.kinds import KINDS, class_targets, depth_targets, object_targets, scale_targets
from perception_encoder.dense_training.run import DenseTask, describe_head, open_tower
from perception_encoder.errors import DataError, MediaDecodeError
from perception_encoder.ranks import Rank
from tests.datasets.drawn import drawn_masks, label_maps, pairs, rooms, write_instances
from tests.dense_training.datasets import HEADS, small_config
from tests.evaluation.layers import png

GREY = (127, 127, 127)


def test_the_same_step_gives_the_same_batch(datasets: dict[str, Path]) -> None:
    config = small_config("depth")
    samples = KINDS[type(config.head)](config, datasets["depth"]).training
    one, two = (DenseBatches(config, samples, Rank(rank=0, world_size=1), 12, GREY) for _ in range(2))
    two(0)
    assert torch.equal(one(5).images, two(5).images) and not torch.equal(one(5).images, one(6).images)
    halves = [DenseBatches(config, samples, Rank(rank=number, world_size=2), 12, GREY)(5).images for number in range(2)]
    assert torch.equal(torch.cat(halves), one(5).images)
    half = DenseBatches(config, samples, Rank(rank=1, world_size=2), 12, GREY)(5)
    assert len(half) == len(one(5)) == config.batch_size  # reports tell the speed of all ranks together


def test_repeats_are_drawn_in_every_epoch() -> None:
    """They were drawn once: a factor of 1.5 showed an image twice in every epoch, or once in every one."""
    factors = torch.tensor([1.0, 1.5, 2.25])
    sampler = RepeatSampler(factors, 4, seed=0)
    counts = torch.stack([torch.bincount(torch.tensor(sampler.epoch(number)), minlength=3) for number in range(400)])
    assert counts.float().mean(dim=0).tolist() == pytest.approx([1, 1.5, 2.25], abs=0.1)
    assert counts[:, 1].unique().tolist() == [1, 2] and counts[:, 2].unique().tolist() == [2, 3]
    shown = [sampler.index(position) for step in range(60) for position in sampler.positions(step)]
    whole = [row for number in range(60) for row in sampler.epoch(number)]
    assert shown == whole[: len(shown)]
    other = RepeatSampler(factors, 4, seed=0)
    assert [other.index(position) for position in other.positions(40)] == shown[160:164]
    assert [other.index(position, 2) for position in other.positions(3)] == shown[20:24]
    assert RepeatSampler(factors, 4, seed=1).epoch(0) + RepeatSampler(factors, 4, seed=1).epoch(1) != whole[:10]


def test_drop_path_grows_over_the_blocks(datasets: dict[str, Path]) -> None:
    config = small_config("depth", "frozen=false", "drop_path=0.5", "batch_size=8")
    samples = KINDS[type(config.head)](config, datasets["depth"]).training
    batches = DenseBatches(config, samples, Rank(rank=0, world_size=1), 5, GREY)
    branches = torch.cat([batches(step).branches for step in range(20)], dim=2)  # (L, 2, B)
    assert (branches[0] == 1).all()
    for block, rate in enumerate((0, 0.125, 0.25, 0.375, 0.5)):
        assert branches[block].max().item() == pytest.approx(1 / (1 - rate))
        assert (branches[block] == 0).float().mean().item() == pytest.approx(rate, abs=0.09)


def test_an_image_that_cannot_be_decoded_is_left_out(
    datasets: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = small_config("depth")
    samples = KINDS[type(config.head)](config, datasets["depth"]).training
    read = type(samples).read
    bad = set(samples.keys[:3])

    def refuse(self, index):
        if self.keys[index] in bad:
            raise MediaDecodeError(self.keys[index], "is damaged")
        return read(self, index)

    monkeypatch.setattr(type(samples), "read", refuse)
    batches = DenseBatches(config, samples, Rank(rank=0, world_size=1), 12, GREY)
    with caplog.at_level(logging.WARNING):
        assert all(len(batches(step)) == 4 for step in range(4))
    assert {record.getMessage().split(":")[0] for record in caplog.records} <= {f"skipped {key}" for key in bad}
    bad |= set(samples.keys)
    with pytest.raises(DataError, match="8 consecutive images are unusable"):
        batches(0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_depth_moves_with_its_image() -> None:
    """Images show depth as grey, so that both can be compared pixel by pixel."""
    samples = DenseSamples(pairs("room", rooms(1, 0)), depth_targets)
    image, targets = samples.read(0)
    for seed in range(8):
        pixels, moved = Augmenter(32, (0.5, 2.0), 0.5, GREY)(image, targets, generator(seed))
        depth = moved["depth"]
        assert pixels.shape == (3, 32, 32) and pixels.dtype == torch.uint8 and depth.shape == (32, 32)
        known = depth > 0
        difference = (pixels[0].float() - 40 * depth).abs()[known]
        assert (difference.median() < 3 and (pixels[:, ~known] == 127).float().mean().item() > 0.9) or known.all()


def test_labels_are_padded_as_not_scored() -> None:
    samples = DenseSamples(drawn_masks("m", label_maps(1, 0)), class_targets)
    image, targets = samples.read(0)
    assert set(targets["labels"].unique().tolist()) == {1, 2, 3}  # 0 is what padding is
    _, moved = Augmenter(32, (0.5, 0.5), 0, GREY)(image, targets, generator())
    assert (moved["labels"] == 0).sum() >= 32 * 32 * 3 // 4 and UNSCORED == -1


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


def test_detas_augmentation() -> None:
    """As in the released scripts: images with short sides from 480 px, or enlarged crops; boxes stay on objects."""
    pixels = np.full((240, 320, 3), (20, 40, 200), np.uint8)
    pixels[100:160, 120:200] = (220, 30, 30)
    image = Image.fromarray(pixels)
    targets = {"boxes": torch.tensor([[120.0, 100, 200, 160]]), "labels": torch.tensor([1])}
    whole, crops = list[list[int]](), list[list[int]]()
    for seed in range(60):
        seen, moved = Augmenter(768, None, 0.5, GREY)(image, targets, generator(seed))
        height, width = moved["inside"].tolist()
        assert seen.shape == (3, 768, 768) and (seen[:, height:] == 127).all() and (seen[:, :, width:] == 127).all()
        red = torch.nonzero(seen[0].float() - seen[2].float() > 0)
        for left, top, right, bottom in moved["boxes"].tolist():
            edges = torch.tensor([left, top, right, bottom])
            found = torch.stack([red[:, 1].min(), red[:, 0].min(), red[:, 1].max() + 1, red[:, 0].max() + 1])
            assert (edges - found).abs().max() < 4 and right <= width and bottom <= height
        assert len(moved["boxes"]) == (len(red) > 0)
        (whole if abs(width / height - 4 / 3) < 0.01 else crops).append([height, width])
    assert 20 <= len(whole) <= 40 and {min(sides) for sides in whole} == {480, 512, 544, 576}  # at most 768 long
    assert all(max(sides) == 768 and min(sides) >= 768 * 384 / 600 for sides in crops)
    assert len({min(sides) for sides in crops}) > 10


def test_masks_shrink_to_where_their_objects_are() -> None:
    """They moved by half a pixel to the right and down, and the boxes around them too."""
    image, edges = Image.fromarray(np.zeros((256, 256, 3), np.uint8)), torch.arange(8, 200)
    masks = torch.zeros(len(edges), 256, 256, dtype=torch.uint8)
    for mask, edge in zip(masks, edges, strict=True):
        mask[edge:240, edge:240] = 1
    targets = {"boxes": torch.zeros(len(edges), 4), "labels": torch.ones(len(edges), dtype=torch.int64)}
    _, moved = Augmenter(64, (1.0, 1.0), 0, GREY)(image, {**targets, "masks": masks}, generator())
    errors = moved["boxes"][:, :2] - edges[:, None] / 4
    assert errors.abs().max() <= 0.5 and abs(errors.mean().item()) < 0.15
    labels = {"labels": torch.arange(256).repeat(256, 1)}
    _, moved = Augmenter(64, (1.0, 1.0), 0, GREY)(image, labels, generator())
    assert moved["labels"].dtype == torch.int64 and moved["labels"][5].tolist() == list(range(2, 256, 4))


def test_an_image_of_another_size_than_its_target_is_scaled() -> None:
    images = pairs("room", rooms(1, 0))
    larger = png(np.asarray(images.open(0).resize((64, 48))))
    image, targets = DenseSamples(dataclasses.replace(images, images=(larger,)), depth_targets).read(0)
    assert image.size == (32, 24) and targets["depth"].shape == (24, 32)


def test_crowds_are_not_learned(tmp_path: Path) -> None:
    place = write_instances(tmp_path, {"train": 1, "test": 1})
    file = place / "train" / "instances.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(content), encoding="utf-8")
    train, _ = read_instance_splits(place)
    _, targets = DenseSamples(train, object_targets).read(0)
    assert [len(targets[name]) for name in ("boxes", "labels", "masks")] == [1, 1, 1]
    left, top, width, height = content["annotations"][1]["bbox"]
    assert targets["boxes"].tolist() == [[left, top, left + width, top + height]]


def test_holes_in_depth_stay_holes() -> None:
    depths = rooms(1, 0)
    depths[0, 4:9, 6:12] = 0
    image, targets = DenseSamples(pairs("room", depths), depth_targets).read(0)
    assert (targets["depth"][4:9, 6:12] == 0).all()
    _, moved = Augmenter(32, (1.0, 1.0), 0, GREY)(image, targets, generator())
    known = moved["depth"][moved["depth"] > 0]
    assert (moved["depth"] == 0).any() and known.min() >= depths[depths > 0].min() - 1e-3  # nothing is interpolated


def make(task: str, path: Path, *settings: str) -> tuple[DenseTask, DenseBatches]:
    config = small_config(task, *settings)
    kind = KINDS[type(config.head)](config, path)
    tower, layer = open_tower(config)
    torch.manual_seed(0)
    backbone = Backbone(tower, layer, config.frozen)
    model = DenseModel(backbone, make_head(describe_head(config, tower, layer, kind), backbone.width))
    return DenseTask(model.train(), config, kind), DenseBatches(
        config, kind.training, Rank(rank=0, world_size=1), 12, (127,) * 3
    )


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("frozen", [True, False])
def test_only_what_is_trained_takes_gradients(task: str, frozen: bool, datasets: dict[str, Path]) -> None:
    model, batches = make(task, datasets[task], f"frozen={str(frozen).lower()}", "layer=3")
    losses = model.losses(batches(0))
    assert all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())
    assert (
        set(losses)
        == {
            "depth": {"depth"},
            "segmenter": {"classes"},
            "detector": {"objectness", "rpn_box_reg", "classifier", "box_reg", "mask"},
        }[task]
    )
    sum(losses.values(), torch.zeros(())).backward()
    encoder = [parameter.grad for parameter in model.backbone.parameters()]
    assert all(item is None for item in encoder) if frozen else any(item is not None for item in encoder)
    head = model.model if frozen else model.model.head
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in head.parameters())


def test_a_rank_gives_its_part_of_the_losses(datasets: dict[str, Path]) -> None:
    model, batches = make("depth", datasets["depth"])
    whole = model.losses(batches(0))["depth"]
    parts = []
    for number in range(2):
        batches.rank = Rank(rank=number, world_size=2)
        batch = batches(0)
        assert len(batch.images) == 2 and batch.share == 0.5
        parts.append(model.losses(batch)["depth"])
    assert sum(parts).item() == pytest.approx(whole.item(), abs=1e-5)


def test_targets_of_a_detector_have_its_own_pixels(datasets: dict[str, Path]) -> None:
    """Inside a patch is 16 pixels wide, so with patches of 8 all lengths are doubled."""
    _, batches = make("detector", datasets["detector"])
    (target, *_) = batches(0).targets
    assert scale_targets(target, 1) == target
    moved = scale_targets(target, 2)
    assert torch.equal(moved["boxes"], 2 * target["boxes"]) and torch.equal(moved["inside"], 2 * target["inside"])
    assert moved["masks"].shape[-2:] == (64, 64) and moved["masks"].sum() == 4 * target["masks"].sum()
