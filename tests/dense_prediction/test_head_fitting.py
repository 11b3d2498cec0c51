"""Heads are fitted on standardised features; what cannot be fitted is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from perception_encoder.dense_prediction.head_fitting import FitConfig, Standardize, fit_head
from perception_encoder.errors import ConfigError, DataError, ModelError


def test_features_are_standardised_over_all_patches() -> None:
    features = np.random.default_rng(0).normal(3, 2, (7, 2, 3, 4))
    standardize = Standardize(4)
    standardize.measure(features, chunk=3)
    maps = standardize(torch.from_numpy(features).float())
    assert maps.shape == (7, 4, 2, 3)
    assert maps.mean(dim=(0, 2, 3)).numpy() == pytest.approx(np.zeros(4), abs=1e-5)
    assert maps.std(dim=(0, 2, 3), correction=0).numpy() == pytest.approx(np.ones(4), abs=1e-5)


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


def test_gradients_are_clipped_to_a_norm_of_one() -> None:
    head = nn.Linear(3, 2, bias=False)
    fit_head(head, lambda rows: 100 * head.weight.sum(), 2, FitConfig(epochs=1, batch=2), "fitting")
    assert float(head.weight.grad.norm()) == pytest.approx(1, rel=1e-4)


def test_what_cannot_be_fitted_is_named() -> None:
    head = nn.Linear(1, 1)
    with pytest.raises(DataError, match="a head: there are no items"):
        fit_head(head, lambda rows: head.weight.sum(), 0, FitConfig(), "a head")
    with pytest.raises(ModelError, match="a head: the loss is nan"):
        fit_head(head, lambda rows: head.weight.sum() * torch.nan, 2, FitConfig(), "a head")
    with pytest.raises(ConfigError, match="must each be at least 1"):
        FitConfig(epochs=0)
