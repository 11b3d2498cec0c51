"""Strict loading by a table."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from perception_encoder.dense_prediction.published.layout import KeyRow, load_rows, rows_of
from perception_encoder.errors import CheckpointError


def test_rows_are_converted_and_become_float32() -> None:
    model = nn.Linear(2, 3)
    state = {
        "w.weight": torch.ones(2, 3, dtype=torch.float16),
        "w.bias": torch.arange(3.0),
        "step.count": torch.ones(1),
    }
    rows = [KeyRow("weight", "w.weight", lambda each: each.T), KeyRow("bias", "w.bias")]
    load_rows(model, state, rows, (r"\.count$",))
    assert model.weight.dtype == torch.float32 and torch.equal(model.weight, torch.ones(3, 2))
    assert torch.equal(model.bias, torch.arange(3.0))


def test_misfits_are_listed() -> None:
    state = {"w.weight": torch.ones(9, 2), "more": torch.ones(4, 5)}
    with pytest.raises(CheckpointError) as raised:
        load_rows(nn.Linear(2, 3), state, [KeyRow("weight", "w.weight"), KeyRow("bias", "w.bias")], ())
    assert [line.strip() for line in str(raised.value).splitlines()] == [
        "these weights do not fit:",
        "w.weight becomes (9, 2), must become (3, 2)",
        "missing w.bias",
        "unexpected more (4, 5)",
    ]


def test_rows_of_a_module() -> None:
    assert rows_of("a", "b") == [KeyRow("a.weight", "b.weight"), KeyRow("a.bias", "b.bias")]
