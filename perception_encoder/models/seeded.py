"""Random weights of models that other libraries build, drawn from a passed generator.

They draw from torch's own generator; it is lent the passed one's state, and gets its own back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def drawn_from(generator: torch.Generator) -> Iterator[None]:
    """Have what the block draws on the CPU come from `generator`."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        yield
        generator.set_state(torch.get_rng_state())
