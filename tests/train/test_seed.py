"""Generators by key."""

from __future__ import annotations

import torch

from perception_encoder.train.seed import torch_generator


def test_generators_depend_on_the_whole_key() -> None:
    draws = {tuple(torch.rand(3, generator=torch_generator(*key)).tolist()) for key in [(0, 1), (1, 0), (0,), (0, 2)]}
    assert len(draws) == 4
