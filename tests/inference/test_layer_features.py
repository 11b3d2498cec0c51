"""Layers of this package's models: what `Encoder` gives, of any size, and their attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.errors import ConfigError, ModelError, ShapeError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.layers import rotate
from perception_encoder.models.tower import Tower
from perception_encoder.preprocess.image import ImageTransform
from perception_encoder.runtime.layer_towers import LayerTowers
from tests.models.external.samples import SIZE, noise_images


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return noise_images()


@pytest.fixture(scope="module")
def layers() -> LayerFeatures:
    return LayerFeatures(LayerTowers("nano", Tower.of(create_model("PE-Core-N16-128")), "cpu", torch.float32))


def test_layers_are_those_that_embed_gives(layers: LayerFeatures, images: list[Image.Image]) -> None:
    encoder = Encoder.of(create_model("PE-Core-N16-128"), "cpu", torch.float32)
    found = layers.encode_layers(images, [11, 4])
    assert list(found) == [4, 11] and layers.depth == 12 and layers.patch_size == 16 and layers.image_size == (128, 128)
    normed = LayerFeatures(LayerTowers("nano", layers.towers.tower, "cpu", torch.float32, final_norm=True))
    for layer, shown in ((4, found), (11, normed.encode_layers(images, [4, 11]))):
        tokens = encoder.encode(images, normalize=False, layer=layer, pool="tokens")
        np.testing.assert_allclose(shown[layer].patches.reshape(3, 64, -1), tokens, atol=1e-5)
        classes = encoder.encode(images, normalize=False, layer=layer, pool="cls")
        np.testing.assert_allclose(shown[layer].prefix[:, 0], classes, atol=1e-5)
    assert repr(layers) == "LayerFeatures('nano', layers=12, layer=11, width=192, size=128x128)"
    about = {"weights": encoder.weight_hash, "dtype": "float32", "device": "cpu"}
    assert layers.about == {**about, "final norm": "none"} and normed.about == {**about, "final norm": "last layer"}


def test_a_loaded_encoder_shares_its_model(images: list[Image.Image]) -> None:
    encoder = Encoder.of(create_model("PE-Core-N16-128"), "cpu", torch.float32)
    layers = LayerFeatures.of(encoder, final_norm=True)
    assert layers.towers.tower.model is encoder.visual and layers.about["weights"] == encoder.weight_hash
    tokens = encoder.encode(images, normalize=False, layer=11, pool="tokens")
    np.testing.assert_allclose(layers.encode_layers(images, [11])[11].patches.reshape(3, 64, -1), tokens, atol=1e-5)


def test_no_layer_is_normed_by_default_the_last_one_included(layers: LayerFeatures, images: list[Image.Image]) -> None:
    """As the reference's `forward_features` gives them."""
    batch = torch.stack([ImageTransform((128, 128))(image) for image in images])
    with torch.no_grad():
        wanted = layers.towers.tower.model.forward_features(batch, norm=False)[:, 1:].numpy()
    np.testing.assert_allclose(layers.encode_layers(images, [11])[11].patches.reshape(3, 64, -1), wanted, atol=1e-5)


def test_any_size_that_is_a_multiple_of_the_patch(layers: LayerFeatures, images: list[Image.Image]) -> None:
    assert layers.encode_layers(images, [0], SIZE)[0].patches.shape[:3] == (3, 2, 3)
    assert layers.encode_layers([], [0], SIZE)[0].patches.shape[:3] == (0, 2, 3)
    with pytest.raises(ShapeError, match="30x48 is not a multiple"):
        layers.encode_layers(images, [0], (30, 48))


def test_layers_that_do_not_exist(layers: LayerFeatures, images: list[Image.Image]) -> None:
    for call in (lambda layer: layers.encode_layers(images, [0, layer]), layers.at):
        for layer in (12, -13):
            with pytest.raises(ConfigError, match=f"layer {layer} does not exist; nano has layers 0 to 11"):
                call(layer)
    assert (layers.layer, layers.at(-2).layer, layers.at(3).depth) == (11, 10, 12)
    np.testing.assert_array_equal(layers.at(3).maps(images, SIZE), layers.encode_layers(images, [3], SIZE)[3].patches)
    with pytest.raises(ConfigError, match="no layer was given"):
        layers.encode_layers(images, [])


def test_tokens_that_are_not_finite_are_an_error(images: list[Image.Image]) -> None:
    model = create_model("PE-Core-N16-128")
    with torch.no_grad():
        model.visual.transformer.resblocks[3].mlp.c_proj.bias[0] = float("inf")
    encoder = LayerFeatures(LayerTowers("bad", Tower.of(model), "cpu", torch.float32))
    encoder.encode_layers(images, [2], SIZE)
    with pytest.raises(ModelError, match="in float32 at layer 3"):
        encoder.encode_layers(images, [2, 3], SIZE)


def test_attention_is_the_softmax_of_queries_and_keys(layers: LayerFeatures, images: list[Image.Image]) -> None:
    found = layers.attention(images, [0, 1], SIZE)
    visual = layers.towers.tower.model
    batch = torch.stack([ImageTransform(SIZE)(image) for image in images])
    with torch.no_grad():
        tokens, block = visual.embed_patches(batch), visual.transformer.resblocks[0]
        projected = torch.nn.functional.linear(
            block.ln_1(tokens), block.attn.in_proj_weight, block.attn.in_proj_bias
        ).unflatten(-1, (3, block.attn.heads, -1))
        q, k, _ = projected.permute(2, 0, 3, 1, 4)
        table = visual.rope(*SIZE, torch.device("cpu"))
        scores = rotate(q, table) @ rotate(k, table).transpose(-1, -2) / q.shape[-1] ** 0.5
    np.testing.assert_allclose(found[0], scores.softmax(-1).mean(1).numpy(), atol=1e-5)
    assert found[1].shape == (3, 7, 7)
    np.testing.assert_allclose(found[1].sum(-1), 1, atol=1e-5)
