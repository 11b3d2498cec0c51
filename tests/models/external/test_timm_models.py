"""Embeddings and layers of timm's models, against timm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.errors import ConfigError, UnknownModelError, WeightsUnavailableError
from perception_encoder.inference.external_encoder import OutputEncoder
from perception_encoder.inference.load import load_layers
from perception_encoder.models.external import TimmModel
from tests.evaluation.test_library_models import PlainTimmEncoder
from tests.models.external.samples import SIZE, noise_images, scaled


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return noise_images()


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("vit_tiny_patch16_224", 1), ("vit_small_patch16_dinov3", 5), ("vit_base_patch16_siglip_224", 0)],
)
def test_timm_models(name: str, prefix: int, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    create = timm.create_model

    def create_small(name: str, **settings: object) -> object:
        return create(name, depth=2, embed_dim=32, num_heads=2, **settings)

    monkeypatch.setattr(timm, "create_model", create_small)
    encoder = load_layers(f"random:timm:{name}", "cpu", torch.float32, final_norm=True)
    again = load_layers(f"random:timm:{name}", "cpu", torch.float32, final_norm=True)
    assert encoder.about == again.about and encoder.name == f"random:timm:{name}"
    model = encoder.tower.model
    found = encoder.encode_layers(images, [0, 1], SIZE)
    assert encoder.depth == 2 and encoder.patch_size == 16 and found[0].prefix.shape == (3, prefix, 32)
    config = timm.data.resolve_model_data_config(model)
    batch = scaled(images, SIZE, config["mean"], config["std"])
    with torch.no_grad():
        wanted = model.forward_features(batch)  # through the final norm
        (first,) = model.forward_intermediates(batch, [0], intermediates_only=True)
    tokens = np.concatenate([found[1].prefix, found[1].patches.reshape(3, 6, 32)], axis=1)
    np.testing.assert_allclose(tokens, wanted.numpy(), atol=1e-4)
    np.testing.assert_allclose(found[0].patches, first.permute(0, 2, 3, 1).numpy(), atol=1e-4)
    np.testing.assert_allclose(encoder.attention(images, [1], SIZE)[1].sum(-1), 1, atol=1e-5)


def test_timm_models_that_do_not_do() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match="test_resnet is a ResNet"):
        load_layers("random:timm:test_resnet")
    with pytest.raises(UnknownModelError, match=r"timm has no model 'vit_tiny_patch61_224'; did you mean vit_tiny"):
        load_layers("timm:vit_tiny_patch61_224")
    with pytest.raises(WeightsUnavailableError, match="timm:test_vit could not be loaded"):
        load_layers("timm:test_vit")


def test_a_timm_model_has_both_transforms_and_no_texts() -> None:
    timm = pytest.importorskip("timm")
    adapter = TimmModel("timm:test_vit", "test_vit")
    adapter.model = timm.create_model("test_vit", num_classes=0)
    encoders = {mode: OutputEncoder(adapter).variant(transform=mode) for mode in ("squash", "crop")}
    wide = Image.new("RGB", (300, 100))
    wide.paste((255, 255, 255), (0, 0, 40, 100))  # what a centre crop leaves out
    plain = Image.new("RGB", (300, 100))
    changed = {name: np.abs(e.encode_images([wide]) - e.encode_images([plain])).max() for name, e in encoders.items()}
    assert changed["crop"] == 0 < changed["squash"]
    encoder = PlainTimmEncoder()
    encoder.model = encoders["crop"].model.cpu()
    np.testing.assert_allclose(encoders["crop"].encode_images([wide]), encoder.encode_images([wide]), atol=1e-5)
    with pytest.raises(ConfigError, match="timm:test_vit has no text tower"):
        encoders["squash"].encode_texts(["a dog"])
