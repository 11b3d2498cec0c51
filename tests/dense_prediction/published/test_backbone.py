"""Towers described by their weights alone."""

from __future__ import annotations

import pytest
import torch

from perception_encoder.dense_prediction.dense_model import WindowConfig
from perception_encoder.dense_prediction.published.backbone import describe_backbone
from perception_encoder.errors import CheckpointError
from tests.dense_prediction.published.renamed import WINDOW, published_tower, vitdet
from tests.dense_prediction.published.shapes import GLOBAL, empty, tower

USUAL = WindowConfig(size=24, span=16)


def test_tables_tell_windows_heads_and_size() -> None:
    state = published_tower(vitdet(), "a.", WINDOW)
    found = describe_backbone(state, "a.", USUAL, 1824)
    assert (found.windows.size, found.windows.span, found.windows.global_blocks) == (4, 4, (1,))
    assert (found.vision.heads, found.vision.grid, found.vision.mlp_width, found.image_size) == (2, 4, 48, 128)
    assert found.vision.layer_scale == 0.1 and not found.vision.class_token


def test_without_tables_the_paper_tells() -> None:
    state = {name: each for name, each in tower("", 24, 24, 114, 16, True).items() if "freqs" not in name}
    found = describe_backbone(state, "", USUAL, 1824)
    assert (found.vision.heads, found.vision.depth, found.image_size) == (16, 50, 1824)
    assert found.windows == WindowConfig(size=24, global_blocks=GLOBAL, span=16)
    state["positional_embedding"] = empty(1, 24**2 + 1, 1536)
    assert describe_backbone(state, "", USUAL, 1824).vision.class_token
    few = {name: each for name, each in state.items() if "resblocks" not in name or ".resblocks.0." in name}
    with pytest.raises(CheckpointError, match="no model of width 1536 and depth 1 is known"):
        describe_backbone(few, "", USUAL, 1824)


def test_tables_that_are_not_whole() -> None:
    state = published_tower(vitdet(), "a.", WINDOW)
    blocks = {name: each for name, each in state.items() if "attn.rope" not in name}
    with pytest.raises(CheckpointError, match="and no model of depth 3 is known: windows cannot be told"):
        describe_backbone(blocks, "a.", USUAL, 1824)
    del state["a.rope_win.freqs_sin"]
    with pytest.raises(CheckpointError, match="need cosines and sines of two patches"):
        describe_backbone(state, "a.", USUAL, 1824)
    with pytest.raises(CheckpointError, match="only towers of Perception Encoder are supported"):
        describe_backbone({"b.x": torch.ones(1)}, "b.", USUAL, 1824)
