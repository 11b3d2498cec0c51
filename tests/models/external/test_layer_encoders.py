"""Layers of this package's models, timm's and transformers': each against its own library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.errors import ConfigError, ModelError, ShapeError, UnknownModelError, WeightsUnavailableError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.models.external.layer_encoders import TowerEncoder, load_layer_encoder, own_tower
from perception_encoder.models.layers.rope import rotate
from perception_encoder.preprocess.image import ImageTransform

SIZE = (32, 48)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)) for _ in range(3)]


@pytest.fixture(scope="module")
def own() -> TowerEncoder:
    return TowerEncoder("nano", own_tower(create_model("PE-Core-N16-128")), "cpu", torch.float32)


def scaled(pictures: list[Image.Image], size: tuple[int, int], mean: object, deviation: object) -> torch.Tensor:
    pixels = torch.stack([ImageTransform(size).pixels(picture) for picture in pictures]).float() / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]


@contextmanager
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_layers_are_those_that_embed_gives(own: TowerEncoder, pictures: list[Image.Image]) -> None:
    encoder = Encoder(create_model("PE-Core-N16-128"), "cpu", torch.float32)
    found = own.encode_layers(pictures, [11, 4])
    assert list(found) == [4, 11] and own.depth == 12 and own.patch_size == 16 and own.image_size == (128, 128)
    normed = TowerEncoder("nano", own.tower, "cpu", torch.float32, final_norm=True)
    for layer, shown in ((4, found), (11, normed.encode_layers(pictures, [4, 11]))):
        tokens = encoder.encode(pictures, normalize=False, layer=layer, pool="tokens")
        np.testing.assert_allclose(shown[layer].patches.reshape(3, 64, -1), tokens, atol=1e-5)
        classes = encoder.encode(pictures, normalize=False, layer=layer, pool="cls")
        np.testing.assert_allclose(shown[layer].prefix[:, 0], classes, atol=1e-5)
    about = {"weights": encoder.weight_hash, "dtype": "float32", "device": "cpu"}
    assert own.about == {**about, "final norm": "none"} and normed.about == {**about, "final norm": "last layer"}


def test_no_layer_is_normed_by_default_the_last_one_included(own: TowerEncoder, pictures: list[Image.Image]) -> None:
    """As the reference's `forward_features` gives them."""
    batch = torch.stack([ImageTransform((128, 128))(picture) for picture in pictures])
    with torch.no_grad():
        wanted = own.tower.model.forward_features(batch, norm=False)[:, 1:].numpy()
    np.testing.assert_allclose(own.encode_layers(pictures, [11])[11].patches.reshape(3, 64, -1), wanted, atol=1e-5)


def test_any_size_that_is_a_multiple_of_the_patch(own: TowerEncoder, pictures: list[Image.Image]) -> None:
    assert own.encode_layers(pictures, [0], SIZE)[0].patches.shape[:3] == (3, 2, 3)
    assert own.encode_layers([], [0], SIZE)[0].patches.shape[:3] == (0, 2, 3)
    with pytest.raises(ShapeError, match="30x48 is not a multiple of the patch size 16"):
        own.encode_layers(pictures, [0], (30, 48))


def test_layers_that_do_not_exist(own: TowerEncoder, pictures: list[Image.Image]) -> None:
    for layer in (12, -1):
        with pytest.raises(ConfigError, match=f"layer {layer} does not exist; nano has layers 0 to 11"):
            own.encode_layers(pictures, [0, layer])
    with pytest.raises(ConfigError, match="no layer was asked for"):
        own.encode_layers(pictures, [])


def test_tokens_that_are_not_finite_are_an_error(pictures: list[Image.Image]) -> None:
    model = create_model("PE-Core-N16-128")
    with torch.no_grad():
        model.visual.transformer.resblocks[3].mlp.c_proj.bias[0] = float("inf")
    encoder = TowerEncoder("bad", own_tower(model), "cpu", torch.float32)
    encoder.encode_layers(pictures, [2], SIZE)
    with pytest.raises(ModelError, match="bad gives NaN or infinity in float32 at layer 3"):
        encoder.encode_layers(pictures, [2, 3], SIZE)


def test_a_file_of_a_vision_tower_alone_and_the_random_model_of_its_shape(
    tmp_path: Path, pictures: list[Image.Image]
) -> None:
    model = create_model("PE-Core-N16-128", generator=torch.Generator().manual_seed(5)).visual
    path = tmp_path / "nano_step1.safetensors"
    write_checkpoint(model, path)
    encoder = load_layer_encoder(path, "cpu", torch.float32)
    assert encoder.name == "nano_step1"
    wanted = TowerEncoder("same", own_tower(model), "cpu", torch.float32).encode_layers(pictures, [5], SIZE)
    np.testing.assert_array_equal(encoder.encode_layers(pictures, [5], SIZE)[5].patches, wanted[5].patches)
    random = load_layer_encoder(f"random:{path}", "cpu", torch.float32)
    assert random.name == "random:nano_step1" and random.depth == encoder.depth
    assert random.about["weights"] != encoder.about["weights"]
    assert random.about == load_layer_encoder(f"random:{path}", "cpu", torch.float32).about


def test_attention_is_the_softmax_of_queries_and_keys(own: TowerEncoder, pictures: list[Image.Image]) -> None:
    found = own.attention(pictures, [0, 1], SIZE)
    visual = own.tower.model
    batch = torch.stack([ImageTransform(SIZE)(picture) for picture in pictures])
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


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("vit_tiny_patch16_224", 1), ("vit_small_patch16_dinov3", 5), ("vit_base_patch16_siglip_224", 0)],
)
def test_timm_models(name: str, prefix: int, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    create = timm.create_model

    def create_small(name: str, **settings: object) -> object:
        return create(name, depth=2, embed_dim=32, num_heads=2, **settings)

    monkeypatch.setattr(timm, "create_model", create_small)
    encoder = load_layer_encoder(f"random:timm:{name}", "cpu", torch.float32, final_norm=True)
    again = load_layer_encoder(f"random:timm:{name}", "cpu", torch.float32, final_norm=True)
    assert encoder.about == again.about and encoder.name == f"random:timm:{name}"
    model = encoder.tower.model
    found = encoder.encode_layers(pictures, [0, 1], SIZE)
    assert encoder.depth == 2 and encoder.patch_size == 16 and found[0].prefix.shape == (3, prefix, 32)
    config = timm.data.resolve_model_data_config(model)
    batch = scaled(pictures, SIZE, config["mean"], config["std"])
    with torch.no_grad():
        wanted = model.forward_features(batch)  # through the final norm
        (first,) = model.forward_intermediates(batch, [0], intermediates_only=True)
    tokens = np.concatenate([found[1].prefix, found[1].patches.reshape(3, 6, 32)], axis=1)
    np.testing.assert_allclose(tokens, wanted.numpy(), atol=1e-4)
    np.testing.assert_allclose(found[0].patches, first.permute(0, 2, 3, 1).numpy(), atol=1e-4)
    np.testing.assert_allclose(encoder.attention(pictures, [1], SIZE)[1].sum(-1), 1, atol=1e-5)


def test_timm_models_that_do_not_do() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match="test_resnet is a ResNet"):
        load_layer_encoder("random:timm:test_resnet")
    with pytest.raises(UnknownModelError, match=r"timm has no model 'vit_tiny_patch61_224'; did you mean vit_tiny"):
        load_layer_encoder("timm:vit_tiny_patch61_224")
    with pytest.raises(WeightsUnavailableError, match="timm:test_vit could not be loaded"):
        load_layer_encoder("timm:test_vit")


def save_transformer(kind: str, folder: Path) -> object:
    """Save a tiny model with random weights and its image processor, as the hub has them."""
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(**shape, image_size=32, patch_size=8)
    with seeded():
        model = getattr(transformers, f"{kind}Model")(config).eval()
    model.save_pretrained(folder)
    text = '{"image_processor_type": "ViTImageProcessor", "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}'
    (folder / "preprocessor_config.json").write_text(text)
    return model


@pytest.mark.parametrize("kind", ["ViT", "Dinov2WithRegisters", "CLIPVision", "SiglipVision"])
def test_transformers_models(kind: str, tmp_path: Path, pictures: list[Image.Image]) -> None:
    model = save_transformer(kind, tmp_path)
    encoder = load_layer_encoder(f"hf:{tmp_path}", "cpu", torch.float32, final_norm=True)
    found = encoder.encode_layers(pictures, [0, 2], (32, 32))
    plain = load_layer_encoder(f"hf:{tmp_path}", "cpu", torch.float32).encode_layers(pictures, [0, 2], (32, 32))
    np.testing.assert_array_equal(plain[0].patches, found[0].patches)
    assert not np.allclose(plain[2].patches, found[2].patches)
    assert encoder.depth == 3 and encoder.patch_size == 8 and found[0].patches.shape == (3, 4, 4, 24)
    with torch.no_grad():
        batch = scaled(pictures, (32, 32), [0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
        given = model(batch, output_hidden_states=True)
    prefix = found[0].prefix.shape[1]
    assert prefix == {"ViT": 1, "Dinov2WithRegisters": 5, "CLIPVision": 1, "SiglipVision": 0}[kind]

    def tokens(layer: int) -> np.ndarray:
        return np.concatenate([found[layer].prefix, found[layer].patches.reshape(3, 16, 24)], axis=1)

    np.testing.assert_allclose(tokens(0), given.hidden_states[1].numpy(), atol=1e-5)
    with torch.no_grad():  # CLIP norms its class token alone, for pooling
        last = model.post_layernorm(given.last_hidden_state) if kind == "CLIPVision" else given.last_hidden_state
    np.testing.assert_allclose(tokens(2), last.numpy(), atol=1e-5)
    assert encoder.encode_layers(pictures, [1], (16, 40))[1].patches.shape == (3, 2, 5, 24)
    attention = encoder.attention(pictures, [2])[2]
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(encoder.attention(pictures, [0, 2])[2], attention)
    assert encoder.attention(pictures, [0])[0].shape == attention.shape  # though all layers run


def test_transformers_models_that_do_not_do(tmp_path: Path) -> None:
    save_transformer("ViT", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"has no preprocessor_config\.json"):
        load_layer_encoder(f"hf:{tmp_path}")
    with pytest.raises(WeightsUnavailableError, match="could not be loaded"):
        load_layer_encoder(f"hf:{tmp_path / 'nothing'}")
