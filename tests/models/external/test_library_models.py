"""Embeddings and layers of other libraries' models, against the libraries; models that cannot be had are named."""

from __future__ import annotations

import copy
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.errors import ConfigError, MissingExtraError, UnknownModelError, WeightsUnavailableError
from perception_encoder.inference.load import load, load_layers
from perception_encoder.models import external
from perception_encoder.models.external import Adapter, OpenClipModel
from perception_encoder.models.external_transformers import TransformersTower
from tests.models.external.samples import SIZE, noise_images, save_transformer, scaled


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
    model = encoder.towers.tower.model
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
    with pytest.raises(UnknownModelError, match="timm has no model 'vit_tiny_patch61_224'"):
        load_layers("timm:vit_tiny_patch61_224")
    with pytest.raises(WeightsUnavailableError, match="timm:test_vit could not be loaded"):
        load_layers("timm:test_vit")


@pytest.mark.parametrize(
    ("weights", "quick"), [("openai", True), ("metaclip-fullcc", True), ("laion2b_s34b_b79k", False), ("w.pt", False)]
)
def test_open_clips_weights_get_the_activation_they_were_trained_with(
    weights: str, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_clip = pytest.importorskip("open_clip")
    create, depth = open_clip.create_model, {"vision_cfg": {"layers": 1}, "text_cfg": {"layers": 1}}
    config = open_clip.get_model_config("ViT-B-32")
    small = {**config, **{name: config[name] | depth[name] for name in depth}}
    monkeypatch.setattr("open_clip.factory.get_model_config", lambda name: copy.deepcopy(small))
    monkeypatch.setattr(
        open_clip, "create_model", lambda name, pretrained, require_pretrained, **options: create(name, **options)
    )  # without weights
    model = OpenClipModel("open_clip:x", f"ViT-B-32,{weights}").model
    assert (type(model.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU") is quick
    assert (type(model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU") is quick


def test_threads_get_the_tokens_of_their_own_images(tmp_path: Path, images: list[Image.Image]) -> None:
    save_transformer("ViT", tmp_path)
    tower = load_layers(f"hf:{tmp_path}", "cpu", torch.float32).towers.tower
    assert isinstance(tower, TransformersTower)
    first, second = scaled(images[:2], (32, 32), [0.5] * 3, [0.5] * 3)[:, None]
    (wanted,) = tower.run(first, [0])

    def interrupt(block: object, inputs: object, output: object) -> None:  # between the first block and the end
        handle.remove()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(tower.run, second, [0]).result()

    handle = tower.blocks[1].register_forward_hook(interrupt)
    (found,) = tower.run(first, [0])
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["Dinov2WithRegisters", "CLIPVision", "SiglipVision"])
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
    assert prefix == {"Dinov2WithRegisters": 5, "CLIPVision": 1, "SiglipVision": 0}[kind]

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


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("timm:no_such_model", UnknownModelError, "timm:no_such_model could not be loaded"),
        ("open_clip:no_such_model,x", UnknownModelError, "open_clip:no_such_model,x could not be loaded"),
        ("open_clip:ViT-B-32", WeightsUnavailableError, "names no weights; give open_clip:ViT-B-32,TAG"),
        ("open_clip:local-dir:/no/such", WeightsUnavailableError, "could not be loaded"),
    ],
)
def test_a_model_that_cannot_be_had_is_named(name: str, error: type[Exception], message: str) -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(error, match=re.escape(message)):
        load(name)


class Library(Adapter):
    """A library that raises an error; `asked` is whether it might have asked the hub."""

    library, distribution = "timm", "open_clip_torch"
    error: Exception = ImportError()

    def _create(self) -> Any:
        raise self.error


def test_a_missing_library_is_told_from_a_missing_dependency_of_it() -> None:
    model = Library("timm:a", "a", random=True)
    model.error = ImportError("no module", name="open_clip")
    with pytest.raises(MissingExtraError, match=r"perception-encoder\[encoders\]"):
        model.model  # noqa: B018
    model.error = ImportError("no module", name="regex")
    with pytest.raises(WeightsUnavailableError, match="timm:a could not be loaded: no module"):
        model.model  # noqa: B018


@pytest.mark.parametrize("library", ["timm", "open_clip", "hf", "st"])
@pytest.mark.parametrize("random", [False, True])
def test_the_hub_may_be_asked_unless_all_is_here(
    library: str, random: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm and open_clip draw random weights without it, the others read a model's configuration from it."""
    asked: list[bool] = []
    monkeypatch.setattr(external, "hub_or_cache", lambda name, asks, copy: asked.append(asks) or nullcontext())
    for listed in ("org/name", str(tmp_path), f"local-dir:{tmp_path}"):
        model = Library(f"{library}:{listed}", listed, random)
        model.library = library  # type: ignore[misc]
        model._hub()
    assert asked == [not random or library in ("hf", "st"), False, False]
