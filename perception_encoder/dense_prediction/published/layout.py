"""Tables of published tensors beside ours, and strict loading by them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from perception_encoder.errors import CheckpointError
from perception_encoder.models.checkpoints.layouts import StateDict

LISTED = 12
"""The most misfits that an error lists."""
DEFAULTS = re.compile(r"\.standardize\.(mean|deviation)$|\.class_weights$")
"""Tensors of ours that published detectors may lack: they change nothing of what is detected."""


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class KeyRow:
    """Where a published tensor goes."""

    own: str
    published: str
    convert: Callable[[Tensor], Tensor] = _same


def rows_of(own: str, published: str, parts: Sequence[str] = ("weight", "bias")) -> list[KeyRow]:
    """Return the rows of a module's tensors."""
    return [KeyRow(f"{own}.{part}", f"{published}.{part}") for part in parts]


def load_rows(model: nn.Module, state: StateDict, rows: Sequence[KeyRow], unused: Iterable[str]) -> None:
    """Load published tensors, as float32; they may become the model's own, without a copy.

    `unused`: patterns of names that need no row. CheckpointError that lists what is missing, unexpected, or of another
    shape.
    """
    own, tensors, problems = model.state_dict(), StateDict(), list[str]()
    for row in rows:
        if row.published not in state:
            problems.append(f"missing {row.published}")
            continue
        tensors[row.own] = row.convert(state[row.published])
        expected, shape = tuple(own[row.own].shape), tuple(tensors[row.own].shape)
        if shape != expected:
            problems.append(f"{row.published} becomes {shape}, must become {expected}")
    known, patterns = {row.published for row in rows}, [re.compile(each) for each in unused]
    for name in state:
        if name not in known and not any(pattern.search(name) for pattern in patterns):
            problems.append(f"unexpected {name} {tuple(state[name].shape)}")
    if problems:
        more = [f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        raise CheckpointError("\n  ".join(["these weights do not fit:", *problems[:LISTED], *more]))
    defaults = {name: each for name, each in own.items() if DEFAULTS.search(name)}
    model.load_state_dict({**defaults, **{name: each.float() for name, each in tensors.items()}}, assign=True)
