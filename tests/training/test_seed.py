"""Generators by key."""

from __future__ import annotations

import numpy as np
import torch

from perception_encoder.training.seed import torch_generator


def test_generators_depend_on_the_whole_key() -> None:
    draws = {tuple(torch.rand(3, generator=torch_generator(*key)).tolist()) for key in [(0, 1), (1, 0), (0,), (0, 2)]}
    assert len(draws) == 4


def test_a_seed_is_numpys_for_the_key_without_its_sign() -> None:
    """Else a run gives other weights than in an earlier version."""
    keys = [(0,), (3, 1), (3, 2, 7), (2, 9)]
    states = [int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) for key in keys]
    assert [torch_generator(*key).initial_seed() for key in keys] == [state % 2**63 for state in states]
    assert {state >> 63 for state in states} == {state % 2 for state in states} == {0, 1}
