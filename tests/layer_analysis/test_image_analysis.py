"""Global tokens are found in a model that is built to have one from a known layer on, and an image is analysed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.inference.load import load_layers
from perception_encoder.layer_analysis.image_analysis import (
    TIMES,
    analyse_image,
    describe_layers,
    describe_tokens,
    received_attention,
)
from perception_encoder.layer_analysis.image_analysis import first_global_layer as first
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.tower import Tower
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.runtime.layer_towers import LayerTowers
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
    return LayerFeatures(LayerTowers("built", Tower.of(model), "cpu", torch.float32))


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


WIDE = Image.new("RGB", (60, 30), (200, 100, 50))


def test_an_image_with_a_global_token() -> None:
    analysis = analyse_image(tower(5), dark(8), [-1, 0], at=(0.0, 0.99))
    assert list(analysis.maps) == [0, 7] and analysis.grid == (6, 6)
    assert (analysis.row, analysis.column) == (5, 0) and first(analysis.statistics) == 5
    assert (
        analysis.median_attention(7)[1, 2] > 30 and analysis.median_attention(7)[0, 0] < 1
    )  # patch 8 is in row 1, column 2
    np.testing.assert_allclose(analysis.patch_attention(0), 1, atol=1e-5)
    assert analysis.patch_attention(7)[1, 2] == pytest.approx(36, abs=0.5)
    assert analysis.similarities(0)[1, 2] == pytest.approx(-1, abs=1e-4)
    assert analysis.similarities(0)[5, 5] == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(analysis.norms(7), 2**0.5 * 2**0.5, atol=1e-2)


def test_points_and_layers_that_do_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"point 1\.5,0 is outside the image"):
        analyse_image(tower(0), dark(8), at=(1.5, 0))
    with pytest.raises(ConfigError, match="layer 8 does not exist"):
        analyse_image(tower(0), dark(8), [8])


def test_a_model_of_one_size_is_analysed_at_that_size() -> None:
    model = tower(3)
    fixed = LayerFeatures(LayerTowers("built", replace(model.towers.tower, fixed_size=True), "cpu", torch.float32))
    assert analyse_image(fixed, WIDE).grid == (6, 6) and analyse_image(model, WIDE).grid == (3, 6)


def test_a_timm_model_of_one_size_is_analysed(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    create = timm.create_model
    small = {"depth": 2, "embed_dim": 32, "num_heads": 2}
    monkeypatch.setattr(timm, "create_model", lambda name, **given: create(name, **small, **given))
    encoder = load_layers("random:timm:beit_base_patch16_224", "cpu", torch.float32)
    assert (
        encoder.towers.tower.fixed_size
        and encoder.towers.tower.class_token
        and analyse_image(encoder, WIDE).grid == (14, 14)
    )


def test_layers_are_described_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = describe_layers(tower(3), [dark(8), dark(20, 3)])
    monkeypatch.setattr("perception_encoder.layer_analysis.image_analysis.BYTES", 1)  # one layer at a time
    assert describe_layers(tower(3), [dark(8), dark(20, 3)]) == statistics
