"""Create random generators from a run's seed and a purpose, without global state."""

from __future__ import annotations

import numpy as np
import torch


def torch_generator(*key: int) -> torch.Generator:
    """Return a CPU generator for a key such as (seed, purpose, step)."""
    (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(seed) & (2**63 - 1))
