"""Batches are a pure function of the step; bad images are left out."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from perception_encoder.dense_training.batches import DenseBatches
from perception_encoder.dense_training.run import read_samples
from perception_encoder.errors import DataError, MediaDecodeError
from perception_encoder.ranks import Rank
from tests.dense_training.datasets import small_config


def test_the_same_step_gives_the_same_batch(datasets: dict[str, Path]) -> None:
    config = small_config("depth")
    samples, _, _ = read_samples(config, datasets["depth"])
    one, two = (DenseBatches(config, samples, Rank(number=0, of=1), 12) for _ in range(2))
    two(0)
    assert torch.equal(one(5).images, two(5).images) and not torch.equal(one(5).images, one(6).images)
    halves = [DenseBatches(config, samples, Rank(number=number, of=2), 12)(5).images for number in range(2)]
    assert torch.equal(torch.cat(halves), one(5).images)


def test_images_may_be_shown_more_than_once_an_epoch(
    datasets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config("depth")
    samples, _, _ = read_samples(config, datasets["depth"])
    read, rows = type(samples).read, []
    monkeypatch.setattr(type(samples), "read", lambda self, index: rows.append(index) or read(self, index))
    DenseBatches(config, samples, Rank(number=0, of=1), 12, [3, 3, 3, 5])(0)
    assert sorted(rows) == [3, 3, 3, 5]


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
    batches = DenseBatches(config, samples, Rank(number=0, of=1), 12)
    with caplog.at_level(logging.WARNING):
        assert all(len(batches(step)) == 4 for step in range(4))
    assert {record.getMessage().split(":")[0] for record in caplog.records} <= {f"left out {key}" for key in bad}
    bad |= set(samples.keys)
    with pytest.raises(DataError, match="8 images in a row could not be used"):
        batches(0)
