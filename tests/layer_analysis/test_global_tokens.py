"""Global tokens are found in a model that is built to have one from a known layer on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.layer_analysis.image_analysis import TIMES, describe_layers, describe_tokens, received_attention
from perception_encoder.layer_analysis.image_analysis import first_global_layer as first
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.tower import Tower
from perception_encoder.models.vision_transformer import VisionTransformer
from tests.layer_analysis.toys import plain

GRID, PATCH, DEPTH = 6, 4, 8


def tower(starts: int, only: bool = False) -> LayerFeatures:
    """A model in which every token attends to bright patches from layer `starts` on, or at that layer alone.

    Tokens tell bright from dark by the sign of their channels, and no block changes them; where attention is not set
    it is even.
    """
    config = VisionConfig(
        image_size=GRID * PATCH,
        patch_size=PATCH,
        width=4,
        depth=DEPTH,
        heads=1,
        mlp_width=4,
        class_token=False,
        attention_pool=False,
        final_norm=False,
        rope=False,
    )
    model = VisionTransformer(config, "PE-Core-N16-128")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)):
            norm.weight.fill_(1)
        model.conv1.weight[0], model.conv1.weight[1] = 1, -1
        for layer in range(starts, starts + 1 if only else DEPTH):
            attention = model.transformer.resblocks[layer].attn
            attention.in_proj_bias[0] = 6.0  # every query
            attention.in_proj_weight[4, 0] = 4.0  # a key of a bright patch, and against it of a dark one
    return LayerFeatures("built", Tower.of(model), "cpu", torch.float32)


def dark(*bright: int) -> Image.Image:
    """Return a dark image with some bright patches."""
    pixels = np.full((GRID, GRID), 20, np.uint8)
    pixels.flat[list(bright)] = 250
    return Image.fromarray(np.kron(pixels, np.ones((PATCH, PATCH), np.uint8)))


@pytest.mark.parametrize("starts", [0, 3, 7])
def test_the_first_layer_with_global_tokens(starts: int) -> None:
    statistics = describe_layers(tower(starts), [dark(8), dark(20, 3)])
    assert first(statistics) == starts
    assert [statistic.global_tokens for statistic in statistics] == [1.5 if n >= starts else 0 for n in range(DEPTH)]
    assert statistics[7].global_attention > 0.9 and statistics[7].prefix_norm is None


def test_one_layer_alone_does_not_count() -> None:
    assert first(describe_layers(tower(2, only=True), [dark(8)])) is None
    assert first(describe_layers(tower(2), [plain(30)])) is None  # all patches are alike


def test_attention_of_neighbours_is_local() -> None:
    count = 25
    attention = np.full((1, count, count), 0.5 / count)
    attention[0, :6, 3] += 0.5  # six tokens attend to patch 3
    attention /= attention.sum(axis=-1, keepdims=True)
    assert (received_attention(attention, 0) < TIMES).all()
    attention[0, :, 3] += 5  # all do
    attention /= attention.sum(axis=-1, keepdims=True)
    assert np.flatnonzero(received_attention(attention, 0)[0] > TIMES).tolist() == [3]
    assert received_attention(np.ones((1, 1, 1)), 0).tolist() == [[0]]


def test_a_class_token_is_not_a_global_patch() -> None:
    attention = np.full((1, 26, 26), 0.01)
    attention[0, :, 0] = 1 - 0.25
    patches = np.ones((1, 5, 5, 3))
    statistics = describe_tokens(4, np.full((1, 1, 3), 2.0), patches, attention)
    assert statistics.global_tokens == 0 and statistics.prefix_norm == pytest.approx(12**0.5)
    assert statistics.patch_norm == statistics.largest_norm == pytest.approx(3**0.5)
