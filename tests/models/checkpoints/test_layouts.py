"""Layouts are detected and lead there and back; other checkpoints are told apart."""

from __future__ import annotations

import pytest
import torch

from perception_encoder.errors import CheckpointError
from perception_encoder.models.checkpoints.layouts import detect_layout, from_published, to_published
from perception_encoder.models.registry import find_model
from tests.models.checkpoints.test_weights import weights_of

ENTRY = find_model("builtin")


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return weights_of("builtin")


@pytest.mark.parametrize("layout", ["published", "timm", "open_clip"])
def test_layouts_are_detected_and_come_back_identical(published: dict[str, torch.Tensor], layout: str) -> None:
    there = from_published(published, ENTRY.vision, layout)
    assert detect_layout(there) == layout
    back = to_published(there, ENTRY.vision)
    vision = {n.removeprefix("visual."): t for n, t in published.items() if n.startswith("visual.")}
    expected = vision if layout == "timm" else published
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[name], expected[name]) for name in expected)


@pytest.mark.parametrize("state", [{}, {"layer1.0.conv1.weight": torch.ones(1)}, {"model": torch.ones(1)}])
def test_other_checkpoints_are_told_apart(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError, match="not a Perception Encoder checkpoint"):
        detect_layout(state)


@pytest.mark.parametrize("layout", ["timm", "open_clip"])
def test_a_head_with_a_bias_is_not_the_projection(published: dict[str, torch.Tensor], layout: str) -> None:
    there = from_published(published, ENTRY.vision, layout)
    (name,) = (name for name in there if name.endswith("head.bias"))
    there[name] = torch.ones_like(there[name])
    with pytest.raises(CheckpointError, match=r"head\.bias is not zero"):
        to_published(there, ENTRY.vision)
