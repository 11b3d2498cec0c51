"""`pe.load` of directories that `pe convert` writes, and of every kind of name that `pe eval` documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import perception_encoder as pe
from perception_encoder.errors import ConfigError
from perception_encoder.exports.layouts import write_layout_directory
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.inference.load import as_encoder, load_layers
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.models.checkpoints.weights import create_model, load_model, write_checkpoint
from perception_encoder.models.clip import CLIP
from perception_encoder.models.defaults import store_choice
from perception_encoder.models.precision import choose_device
from perception_encoder.models.registry import library_model_name
from perception_encoder.models.tower import Tower
from perception_encoder.runtime.layer_towers import LayerTowers
from tests.clips import clip
from tests.models.external.samples import SIZE, noise_images, save_transformer


@pytest.fixture(scope="module")
def timm_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("timm")
    write_layout_directory(create_model("builtin-spatial", True), directory, "timm")
    return directory


def test_a_converted_directory_is_opened(timm_directory: Path, tmp_path: Path) -> None:
    (image, *_) = noise_images()
    expected = pe.load("builtin-spatial").encode(image)
    for name in (timm_directory, str(timm_directory)):
        np.testing.assert_array_equal(pe.load(name).encode(image), expected)
    small = create_model("PE-Core-T16-384")
    assert isinstance(small, CLIP)
    write_layout_directory(small, tmp_path / "clip", "open_clip")
    assert isinstance(load_model(tmp_path / "clip"), CLIP)
    assert load_model(tmp_path / "clip").name == "PE-Core-T16-384"


@pytest.mark.parametrize("name", ["timm:local-dir:DIR", "random:builtin", "random:timm:test_vit", "hf:HF"])
def test_names_of_other_libraries(name: str, timm_directory: Path, tmp_path: Path) -> None:
    if "HF" in name:
        save_transformer("Dinov2", tmp_path)
    name = name.replace("DIR", str(timm_directory)).replace("HF", str(tmp_path))
    encoder, images = pe.load(name), noise_images()
    vectors = encoder.encode([*images, clip(30)])
    assert vectors.shape == (4, encoder.dimension) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert encoder.name == library_model_name(name) and str(tmp_path) not in encoder.name
    assert encoder.describe(encoder.feature())["dimension"] == encoder.dimension
    with pytest.raises(pe.errors.ConfigError, match="no text tower"):
        encoder.encode("a dog")
    at_layer = encoder.variant(layer=1)
    assert at_layer.about["layer"] == "1" and at_layer.about["weights"] == encoder.weight_hash
    layers = pe.load_layers(name, final_norm=True)
    tolerance = 1e-5 if layers.dtype == torch.float32 else 2e-2
    wanted = layers.encode_layers(images, [1])[1].patches.mean(axis=(1, 2))
    np.testing.assert_allclose(at_layer.encode(images, normalize=False), wanted, atol=tolerance, rtol=1e-2)
    if name.startswith("timm:"):
        with pytest.raises(pe.errors.ConfigError, match="has embeddings only"):
            encoder.encode(images, layer=0)
    else:  # pooled from the last layer
        np.testing.assert_allclose(encoder.encode(images, layer=1, normalize=False), wanted, atol=tolerance, rtol=1e-2)


def test_another_librarys_model_runs_on_the_usual_device_in_float32(timm_directory: Path) -> None:
    name, usual = f"timm:local-dir:{timm_directory}", choose_device()
    (image, *_) = noise_images()
    plain, explicit = pe.load(name), pe.load(name, usual, torch.float32)
    assert (plain.device.type, plain.runtime.precision) == (usual.type, "float32")
    np.testing.assert_array_equal(plain.encode(image), explicit.encode(image))
    assert pe.load(name, dtype=torch.bfloat16).runtime.precision == "bfloat16"


def test_a_type_that_only_torch_has() -> None:
    encoder = pe.load("builtin", "cpu", torch.float16)
    assert encoder.dtype == torch.float16 and encoder.runtime.name == "torch"
    with pytest.raises(ConfigError, match="precision is 'float16'"):
        pe.load("builtin", "cpu", torch.float16, runtime="openvino")


def test_an_unknown_precision_is_an_error_for_every_library() -> None:
    for name in ("builtin", "random:builtin"):
        with pytest.raises(ConfigError, match="precision is 'half'"):
            pe.load(name, precision="half")  # type: ignore[arg-type]


def test_a_file_of_a_vision_tower_alone_and_the_random_model_of_its_shape(tmp_path: Path) -> None:
    images = noise_images()
    model = create_model("PE-Core-N16-128", generator=torch.Generator().manual_seed(5)).visual
    path = tmp_path / "nano_step1.safetensors"
    write_checkpoint(model, path)
    encoder = load_layers(path, "cpu", torch.float32)
    assert encoder.name == "nano_step1"
    wanted = LayerFeatures(LayerTowers("same", Tower.of(model), "cpu", torch.float32)).encode_layers(images, [5], SIZE)
    np.testing.assert_array_equal(encoder.encode_layers(images, [5], SIZE)[5].patches, wanted[5].patches)
    random = load_layers(f"random:{path}", "cpu", torch.float32)
    assert random.name == "random:nano_step1" and random.depth == encoder.depth
    assert random.about["weights"] != encoder.about["weights"]
    assert random.about == load_layers(f"random:{path}", "cpu", torch.float32).about


def test_the_precision_of_pe_models_use_goes_with_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception_encoder.models.defaults.config_directory", lambda: tmp_path)
    monkeypatch.delenv("PE_DTYPE", raising=False)
    store_choice("model", "builtin", "bfloat16")
    assert as_encoder(None).runtime.precision == as_encoder("builtin").runtime.precision == "bfloat16"
    assert as_encoder(None, precision="float32").runtime.precision == "float32", "--precision comes first"
    store_choice("model", "PE-Core-S16-384", "bfloat16")
    assert as_encoder("builtin").runtime.precision == as_encoder(ModelSpec("builtin")).runtime.precision
    given = as_encoder(ModelSpec("builtin", precision="float32"))
    with pytest.raises(ConfigError, match="computes in float32, not int8"):
        as_encoder(given, precision="int8")


def test_unknown_keywords_are_named() -> None:
    with pytest.raises(TypeError, match="dimension"):
        pe.load("builtin", dimension=256)  # type: ignore[call-arg]
