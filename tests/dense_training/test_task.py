"""Losses of the three heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from perception_encoder.dense_prediction.dense_model import Backbone, DenseModel, make_head
from perception_encoder.dense_training.batches import DenseBatches
from perception_encoder.dense_training.run import DenseTask, describe_head, open_tower, read_samples
from perception_encoder.ranks import Rank
from tests.dense_training.datasets import HEADS, small_config


def make(task: str, path: Path, *settings: str) -> tuple[DenseTask, DenseBatches]:
    config = small_config(task, *settings)
    samples, _, classes = read_samples(config, path)
    tower, layer = open_tower(config)
    torch.manual_seed(0)
    backbone = Backbone(tower, layer, config.frozen)
    model = DenseModel(backbone, make_head(describe_head(config, tower, layer, samples, classes), backbone.width))
    return DenseTask(model.train(), config), DenseBatches(config, samples, Rank(rank=0, world_size=1), 12, (127,) * 3)


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
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.head.parameters())


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
    model, batches = make("detector", datasets["detector"])
    (target, *_) = batches(0).targets
    assert model._scaled(target) == target
    model.backbone.patch_size = 8
    moved = model._scaled(target)
    assert torch.equal(moved["boxes"], 2 * target["boxes"]) and torch.equal(moved["inside"], 2 * target["inside"])
    assert moved["masks"].shape[-2:] == (64, 64) and moved["masks"].sum() == 4 * target["masks"].sum()
