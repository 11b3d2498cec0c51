"""Features of any layer, pooled, in the type and on the device of the embedder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from perception_encoder.errors import (
    ConfigError,
    ModelError,
)
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load
from perception_encoder.models.checkpoints.weights import create_model, weight_hash
from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.initialization import initialize, torch_generator
from perception_encoder.preprocess.image import open_image
from tests.inference.test_encoder import tensors

CLOSE = {"rtol": 0, "atol": 2e-6}


@pytest.mark.parametrize(("layer", "index"), [(0, 0), (5, 5), (-2, 10)])
def test_any_layer_can_be_pooled(encoder: Encoder, image_files: list[Path], layer: int, index: int) -> None:
    visual = encoder.visual
    with torch.no_grad():
        batch = tensors(encoder, [open_image(path) for path in image_files[:3]])
        ((patches, prefix),) = visual.forward_intermediates(
            batch, [index], return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )
    expected = {"mean": patches.mean(1), "cls": prefix[:, 0], "tokens": patches}
    for pool, vectors in expected.items():
        found = encoder.encode(image_files[:3], normalize=False, layer=layer, pool=pool)
        np.testing.assert_allclose(found, vectors.numpy(), rtol=0, atol=1e-5)
    assert encoder.feature(layer).pool == "mean"


def test_the_last_layer_is_normed_and_is_the_default(encoder: Encoder, image_files: list[Path]) -> None:
    with torch.no_grad():
        tokens = encoder.visual.forward_features(tensors(encoder, [open_image(image_files[0])]))[0].numpy()
    np.testing.assert_allclose(encoder.encode(image_files[0], False, pool="tokens"), tokens[1:], rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        encoder.encode(image_files[0], False, layer=11, pool="cls"), tokens[0], rtol=0, atol=1e-5
    )
    assert encoder.feature(-1) == encoder.feature() == encoder.feature(11, "attn")


def test_layers_after_the_last_one_asked_for_are_not_run(encoder: Encoder, image_files: list[Path]) -> None:
    ran = []
    handles = [
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
        for index, block in enumerate(encoder.visual.transformer.resblocks)
    ]
    encoder.encode(image_files[0], layer=3)
    for handle in handles:
        handle.remove()
    assert ran == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layer": 12}, "layers 0 to 11"),
        ({"layer": -13}, "layers 0 to 11"),
        ({"layer": 5, "pool": "attn"}, "after layer 11 only"),
        ({"pool": "max"}, "attn, cls, mean, tokens"),
        ({"frames": 0}, "at least 1"),
    ],
)
def test_settings_that_do_not_exist_are_refused(encoder: Encoder, settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        encoder.encode("a dog", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_does_not_exist_is_refused(encoder: Encoder, device: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{device}' cannot be used"):
        Encoder(encoder.model, device)


def test_texts_have_no_layers(encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match="texts"):
        encoder.encode("a dog", layer=3)
    with pytest.raises(ConfigError, match="texts"):
        encoder.encode("a dog", pool="mean")


def test_a_model_without_text_or_pooling(image_files: list[Path]) -> None:
    spatial = Encoder(create_model("PE-Spatial-T16-512"), dtype=torch.float32)
    assert spatial.tokenizer is None
    assert spatial.feature().pool == "mean"
    assert spatial.encode(image_files[0], layer=0).shape == (spatial.dimension,) == (192,)
    with pytest.raises(ConfigError, match="no text tower"):
        spatial.encode_texts("a dog")
    with pytest.raises(ConfigError, match="has none"):
        spatial.encode(image_files[0], pool="attn")


def test_a_model_that_projects_its_class_token(image_files: list[Path]) -> None:
    """As vanilla CLIP does, and as the first points of `pe reproduce recipe` are."""
    visual = VisionConfig(
        image_size=32, patch_size=16, width=16, depth=2, heads=2, mlp_width=32, attention_pool=False, output_dim=8
    )
    text = TextConfig(context_length=8, width=16, depth=1, heads=2, output_dim=8)
    model = CLIP(visual, text).eval()
    initialize(model, torch_generator(0))
    encoder = Encoder(model, "cpu", torch.float32)
    vectors = encoder.encode_images(image_files[:2], normalize=False)
    with torch.inference_mode():
        wanted = model.encode_image(tensors(encoder, [open_image(path) for path in image_files[:2]]))
    np.testing.assert_allclose(vectors, wanted, **CLOSE)
    assert encoder.encode_texts(["a dog"]).shape == (1, 8)
    assert encoder.feature(0).pool == "mean"


def test_bfloat16_is_near_and_leaves_the_given_model_alone(encoder: Encoder, image_files: list[Path]) -> None:
    model = encoder.model
    half = Encoder(model, dtype=torch.bfloat16)
    assert next(half.model.parameters()).dtype == torch.bfloat16
    assert next(model.parameters()).dtype == torch.float32
    for inputs in (image_files[:8], ["a dog", "a cat"]):
        found, exact = half.encode(inputs), encoder.encode(inputs)
        assert found.dtype == np.float32
        assert (found * exact).sum(1).min() > 0.999
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert half.weight_hash == encoder.weight_hash == weight_hash(model)


def test_an_encoder_says_what_it_is(encoder: Encoder) -> None:
    assert repr(encoder) == "Encoder('PE-Core-N16-128', dimension=256, device='cpu', dtype='float32')"
    half = Encoder(create_model("PE-Spatial-T16-512"), "cpu", torch.bfloat16)
    assert repr(half) == "Encoder('PE-Spatial-T16-512', dimension=192, device='cpu', dtype='bfloat16')"


def test_bad_weights_raise_rather_than_give_nan(image_files: list[Path]) -> None:
    model = create_model("PE-Core-N16-128")
    with torch.no_grad():
        model.visual.ln_pre.bias[0] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        Encoder(model, dtype=torch.float32).encode(image_files[0], layer=0)


def test_the_text_tower_alone_encodes_texts_alone(checkpoint: Path, encoder: Encoder) -> None:
    texts = load(checkpoint, "cpu", torch.float32, towers="text")
    assert texts.weight_hash == encoder.weight_hash and texts.describe(texts.feature()) == encoder.describe(
        encoder.feature()
    )
    np.testing.assert_array_equal(texts.encode_texts(["a dog", "a cat"]), encoder.encode_texts(["a dog", "a cat"]))
    with pytest.raises(ConfigError, match="load it whole for images and videos"):
        texts.encode_images(np.zeros((8, 8, 3), np.uint8))
