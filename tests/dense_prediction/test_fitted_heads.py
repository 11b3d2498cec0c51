"""Heads are fitted on standardised features; what cannot be fitted is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from perception_encoder.datasets.instances import read_instance_splits
from perception_encoder.dense_prediction.depth import DepthConfig, DepthHead, fit_depth, scale_invariant_loss
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectionConfig, fit_detector
from perception_encoder.dense_prediction.head_fitting import FitConfig, Standardize, fit_head
from perception_encoder.dense_prediction.segmentation import SegmentationConfig, class_share_loss, fit_segmentation
from perception_encoder.errors import ConfigError, DataError, ModelError
from tests.datasets.drawn import write_instances


def test_features_are_standardised_over_all_patches() -> None:
    features = np.random.default_rng(0).normal(3, 2, (7, 2, 3, 4))
    standardize = Standardize(4)
    standardize.measure(features, chunk=3)
    maps = standardize(torch.from_numpy(features).float())
    assert maps.shape == (7, 4, 2, 3)
    assert maps.mean(dim=(0, 2, 3)).numpy() == pytest.approx(np.zeros(4), abs=1e-5)
    assert maps.std(dim=(0, 2, 3), correction=0).numpy() == pytest.approx(np.ones(4), abs=1e-5)


@pytest.mark.parametrize("task", ["depth", "segmentation", "detection"])
def test_the_scale_of_a_layers_features_changes_nothing(task: str, tmp_path: Path) -> None:
    """Bit for bit in any precision: a power of two scales means and deviations exactly."""
    generator = np.random.default_rng(0)
    features = generator.normal(3, 2, (4, 3, 4, 6)).astype(np.float32)
    fit = FitConfig(epochs=2, batch=2)
    images, _ = read_instance_splits(write_instances(tmp_path, {"train": 4, "test": 1}))

    def predict(scale: float) -> np.ndarray:
        maps = scale * features
        head: nn.Module
        if task == "depth":
            head = fit_depth(maps, lambda row: np.full((6, 8), 1.0 + row), DepthConfig(channels=8, fit=fit))
        elif task == "segmentation":
            config = SegmentationConfig(fit=fit)
            head = fit_segmentation(maps, lambda row: np.arange(48).reshape(6, 8) % (2 + row), 5, config)
        else:
            small = DetectionConfig(channels=8, hidden=16, regions=16, fit=fit)
            head = fit_detector(maps, images, np.arange(4), False, small).model.backbone
        with torch.no_grad():
            found = head(torch.from_numpy(maps))
        return (found["0"] if isinstance(found, dict) else found).numpy()

    first = predict(1.0)
    assert np.isfinite(first).all() and first.std() > 0 and np.array_equal(first, predict(1024.0))


def test_the_loss_falls_and_each_pass_takes_every_item() -> None:
    head, seen = nn.Linear(1, 1), []
    inputs = torch.arange(6.0)[:, None] / 6

    def loss(rows: np.ndarray) -> torch.Tensor:
        seen.append(rows.tolist())
        return ((head(inputs[rows]) - 2 * inputs[rows]) ** 2).mean()

    before = float(loss(np.arange(6)).detach())
    seen.clear()
    fit_head(head, loss, 6, FitConfig(epochs=30, batch=4, lr=0.1), "fitting")
    assert len(seen) == 60 and all(
        sorted(one + two) == list(range(6)) for one, two in zip(*[iter(seen)] * 2, strict=True)
    )
    assert float(loss(np.arange(6)).detach()) < before / 10 and not head.training


def test_gradients_are_clipped_to_a_norm_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    head, norms = nn.Linear(3, 2, bias=False), []
    step = torch.optim.AdamW.step
    watch = lambda *arguments: norms.append(float(head.weight.grad.norm())) or step(*arguments)  # noqa: E731
    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    fit_head(head, lambda rows: 100 * head.weight.sum(), 2, FitConfig(epochs=1, batch=2), "fitting")
    assert norms == [pytest.approx(1, rel=1e-4)]


def test_what_cannot_be_fitted_is_named() -> None:
    head = nn.Linear(1, 1)
    with pytest.raises(DataError, match="a head: there are no items"):
        fit_head(head, lambda rows: head.weight.sum(), 0, FitConfig(), "a head")
    with pytest.raises(ModelError, match="a head: the loss is nan"):
        fit_head(head, lambda rows: head.weight.sum() * torch.nan, 2, FitConfig(), "a head")
    with pytest.raises(ConfigError, match=r"nearest is 1\.0 m"):
        DepthConfig(nearest=1.0, farthest=1.0)


def test_the_loss_forgives_a_common_error_in_scale() -> None:
    target = torch.tensor([[[1.0, 2.0, 0.0]]])
    twice = torch.log(2 * target.clamp_min(1e-3))
    strict, lenient = DepthConfig(scale_invariance=0.0), DepthConfig(scale_invariance=1.0)
    assert float(scale_invariant_loss(twice, target, strict)) == pytest.approx(np.log(2), abs=1e-3)
    assert float(scale_invariant_loss(twice, target, lenient)) == pytest.approx(1e-3, abs=1e-3)


def test_holes_in_depth_are_not_learned_from() -> None:
    """Zeros, NaN, infinity and depths out of the range neither count nor spoil a gradient."""
    config = DepthConfig()
    predicted = torch.zeros(2, 1, 6, requires_grad=True)
    target = torch.tensor([[[2.0, 0.0, torch.nan, torch.inf, -1.0, 99.0]], [[0.0, torch.nan, 0.0, 0.0, 0.0, 0.0]]])
    loss = scale_invariant_loss(predicted, target, config)
    alone = scale_invariant_loss(torch.zeros(1, 1, 1), torch.tensor([[[2.0]]]), config)
    assert loss.item() == pytest.approx((alone.item() + 1e-3) / 2, rel=1e-4)
    loss.backward()
    assert torch.isfinite(predicted.grad).all() and predicted.grad[0, 0, 0] < 0
    assert predicted.grad.count_nonzero() == 1
    head = DepthHead(4, config)
    head.begin_with(target[:, 0])
    assert head.out[-1].bias.item() == pytest.approx(np.log(2))
    with pytest.raises(DataError, match=r"depths of 0\.001 to 10 m"):
        head.begin_with(target[1:, 0])


def test_classes_that_features_tell_are_learned_and_unscored_pixels_are_not() -> None:
    labels = np.array([[0, 0, 1, 1]] * 4)
    features = np.eye(2, dtype=np.float32)[labels[::2, ::2]][None].repeat(8, axis=0)  # (8, 2, 2, 2)
    unscored = np.where(np.arange(4) == 0, -1, labels)
    config = SegmentationConfig(fit=FitConfig(epochs=40, batch=4, lr=0.05))
    head = fit_segmentation(features, lambda index: unscored, 2, config)
    assert (head.predict(torch.from_numpy(features[:1]), (2, 2))[0].numpy() == labels[::2, ::2]).all()


def test_the_first_class_is_scored_and_pixels_below_0_are_not() -> None:
    labels = torch.tensor([[0, -1], [0, 0]])[None].repeat_interleave(4, 1).repeat_interleave(4, 2)
    loss = class_share_loss(torch.zeros(1, 2, 2, 2), labels)
    assert loss.item() == pytest.approx(0.75 * 0.693147, rel=1e-4)
