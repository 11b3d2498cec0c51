"""An image's analysis in a model that is built to have a global token, and its sizes, points and layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.inference.load import load_layers
from perception_encoder.layer_analysis.image_analysis import analyse_image, describe_layers
from tests.layer_analysis.test_global_tokens import dark, tower

WIDE = Image.new("RGB", (60, 30), (200, 100, 50))


def test_an_image_with_a_global_token() -> None:
    analysis = analyse_image(tower(5), dark(8), [-1, 0], at=(0.0, 0.99))
    assert list(analysis.maps) == [0, 7] and analysis.grid == (6, 6)
    assert (analysis.row, analysis.column) == (5, 0) and analysis.global_from == 5
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
    with pytest.raises(ConfigError, match="layer 8 does not exist; built has layers 0 to 7"):
        analyse_image(tower(0), dark(8), [8])


def test_a_model_of_one_size_is_analysed_at_that_size() -> None:
    model = tower(3)
    fixed = LayerFeatures("built", replace(model.tower, fixed_size=True), "cpu", torch.float32)
    assert analyse_image(fixed, WIDE).grid == (6, 6) and analyse_image(model, WIDE).grid == (3, 6)


def test_a_timm_model_of_one_size_is_analysed(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    create = timm.create_model
    small = {"depth": 2, "embed_dim": 32, "num_heads": 2}
    monkeypatch.setattr(timm, "create_model", lambda name, **given: create(name, **small, **given))
    encoder = load_layers("random:timm:beit_base_patch16_224", "cpu", torch.float32)
    assert encoder.tower.fixed_size and encoder.tower.class_token and analyse_image(encoder, WIDE).grid == (14, 14)


def test_layers_are_described_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = describe_layers(tower(3), [dark(8), dark(20, 3)])
    monkeypatch.setattr("perception_encoder.layer_analysis.image_analysis.BYTES", 1)  # one layer at a time
    assert describe_layers(tower(3), [dark(8), dark(20, 3)]) == statistics
