"""Batches are a pure function of the step; bad images are left out."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from perception_encoder.dense_training.batches import DenseBatches, RepeatSampler
from perception_encoder.dense_training.run import read_samples
from perception_encoder.errors import DataError, MediaDecodeError
from perception_encoder.ranks import Rank
from tests.dense_training.datasets import small_config

GREY = (127, 127, 127)


def test_the_same_step_gives_the_same_batch(datasets: dict[str, Path]) -> None:
    config = small_config("depth")
    samples, _, _ = read_samples(config, datasets["depth"])
    one, two = (DenseBatches(config, samples, Rank(rank=0, world_size=1), 12, GREY) for _ in range(2))
    two(0)
    assert torch.equal(one(5).images, two(5).images) and not torch.equal(one(5).images, one(6).images)
    halves = [DenseBatches(config, samples, Rank(rank=number, world_size=2), 12, GREY)(5).images for number in range(2)]
    assert torch.equal(torch.cat(halves), one(5).images)


def test_images_may_be_shown_more_than_once_an_epoch(
    datasets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config("depth")
    samples, _, _ = read_samples(config, datasets["depth"])
    read, rows = type(samples).read, []
    monkeypatch.setattr(type(samples), "read", lambda self, index: rows.append(index) or read(self, index))
    DenseBatches(config, samples, Rank(rank=0, world_size=1), 12, GREY, torch.tensor([0.0, 0, 0, 3, 0, 1, 0, 0]))(0)
    assert sorted(rows) == [3, 3, 3, 5]


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
    samples, _, _ = read_samples(config, datasets["depth"])
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
    samples, _, _ = read_samples(config, datasets["depth"])
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
