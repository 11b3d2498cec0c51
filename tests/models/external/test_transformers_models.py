"""Layers of transformers' models, against transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.errors import ConfigError, WeightsUnavailableError
from perception_encoder.inference.load import load_layers
from tests.models.external.samples import noise_images, save_transformer, scaled


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return noise_images()


@pytest.mark.parametrize("kind", ["ViT", "Dinov2WithRegisters", "CLIPVision", "SiglipVision"])
def test_transformers_models(kind: str, tmp_path: Path, images: list[Image.Image]) -> None:
    model = save_transformer(kind, tmp_path)
    encoder = load_layers(f"hf:{tmp_path}", "cpu", torch.float32, final_norm=True)
    found = encoder.encode_layers(images, [0, 2], (32, 32))
    plain = load_layers(f"hf:{tmp_path}", "cpu", torch.float32).encode_layers(images, [0, 2], (32, 32))
    np.testing.assert_array_equal(plain[0].patches, found[0].patches)
    assert not np.allclose(plain[2].patches, found[2].patches)
    assert encoder.depth == 3 and encoder.patch_size == 8 and found[0].patches.shape == (3, 4, 4, 24)
    with torch.no_grad():
        batch = scaled(images, (32, 32), [0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
        given = model(batch, output_hidden_states=True)
    prefix = found[0].prefix.shape[1]
    assert prefix == {"ViT": 1, "Dinov2WithRegisters": 5, "CLIPVision": 1, "SiglipVision": 0}[kind]

    def tokens(layer: int) -> np.ndarray:
        return np.concatenate([found[layer].prefix, found[layer].patches.reshape(3, 16, 24)], axis=1)

    np.testing.assert_allclose(tokens(0), given.hidden_states[1].numpy(), atol=1e-5)
    with torch.no_grad():  # CLIP norms its class token alone, for pooling
        last = model.post_layernorm(given.last_hidden_state) if kind == "CLIPVision" else given.last_hidden_state
    np.testing.assert_allclose(tokens(2), last.numpy(), atol=1e-5)
    assert encoder.encode_layers(images, [1], (16, 40))[1].patches.shape == (3, 2, 5, 24)
    attention = encoder.attention(images, [2])[2]
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(encoder.attention(images, [0, 2])[2], attention)
    assert encoder.attention(images, [0])[0].shape == attention.shape  # though all layers run


def test_transformers_models_that_do_not_do(tmp_path: Path) -> None:
    save_transformer("ViT", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"has no preprocessor_config\.json"):
        load_layers(f"hf:{tmp_path}")
    with pytest.raises(WeightsUnavailableError, match="could not be loaded"):
        load_layers(f"hf:{tmp_path / 'nothing'}")
