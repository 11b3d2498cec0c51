"""Files of trained language models."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from perception_encoder.errors import CheckpointError, PerceptionEncoderError
from perception_encoder.exports.layouts import write_layout_directory
from perception_encoder.language_models.decoder import DecoderLoRA, add_decoder_adapters, merge_decoder_adapters
from perception_encoder.language_models.language_model import LanguageModel
from perception_encoder.language_models.weights import (
    METADATA,
    Parts,
    build_language_model,
    load_vision,
    read_language_model,
    read_tower,
    write_language_model,
)
from perception_encoder.models.checkpoints.files import read_checkpoint, write_tensors
from perception_encoder.models.checkpoints.weights import load_model, write_checkpoint
from perception_encoder.preprocess.conversation import Sampling, ask
from perception_encoder.preprocess.tiling import MediaConfig
from tests.tiny_language_models import write_tiny_decoder

NOISE = Image.effect_noise((96, 64), 90).convert("RGB")
CPU = torch.device("cpu")


def parts(directory: Path) -> Parts:
    decoder = write_tiny_decoder(directory / "decoder")
    return Parts(encoder="builtin", layer=3, decoder=str(decoder), media=MediaConfig(image_size=64))


def write_file(path: Path, vision: bool = False) -> Path:
    """Write the file of a run of small parts."""
    made = parts(path.parent)
    model, _ = build_language_model(made, torch.Generator().manual_seed(0))
    write_language_model(path, made, model, vision=vision, decoder=False)
    return path


@pytest.mark.parametrize("lora", [None, DecoderLoRA(rank=2)])
@pytest.mark.parametrize("vision", [False, True])
def test_a_file_gives_back_the_model_that_was_written(tmp_path: Path, lora: DecoderLoRA | None, vision: bool) -> None:
    model_parts = dataclasses.replace(parts(tmp_path), lora=lora, layer_scale=0.1 if vision else None)
    generator = torch.Generator().manual_seed(0)
    model, decoder = build_language_model(model_parts, generator)
    if lora:
        add_decoder_adapters(model.decoder, lora, generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name if name.startswith("decoder.") and lora else vision or "vision." not in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    path = tmp_path / "model.safetensors"
    write_language_model(path, model_parts, model, vision=vision, decoder=True, half=False)
    again = read_language_model(path, CPU, torch.float32)
    conversation, sampling = ask("what?", [NOISE]), Sampling(max_tokens=10)
    expected = LanguageModel("x", model, decoder, model_parts.media).generate([conversation], sampling)
    assert again.generate([conversation], sampling)[0].text == expected[0].text
    assert again.name == "model" and again.media.tiles == 4


@torch.no_grad()
@pytest.mark.parametrize("lora", [None, DecoderLoRA(rank=2)])
def test_a_decoder_stored_in_bfloat16_loses_nothing_of_what_was_trained(
    tmp_path: Path, lora: DecoderLoRA | None
) -> None:
    """It is loaded in its file's type, but trained weights and adapters' sums must not pass through that type."""
    from transformers import AutoModelForCausalLM

    model_parts = dataclasses.replace(parts(tmp_path), lora=lora)
    stored = AutoModelForCausalLM.from_pretrained(model_parts.decoder, dtype=torch.bfloat16)
    stored.save_pretrained(model_parts.decoder)
    generator = torch.Generator().manual_seed(0)
    model, _ = build_language_model(model_parts, generator)
    trained = add_decoder_adapters(model.decoder, lora, generator) if lora else list(model.decoder.parameters())
    for parameter in trained:
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    path = tmp_path / "model.safetensors"
    write_language_model(path, model_parts, model, vision=False, decoder=True, half=False)
    merge_decoder_adapters(model.decoder)
    for dtype in (torch.float32, torch.bfloat16):
        again = read_language_model(path, CPU, dtype).model.decoder.state_dict()
        for name, value in model.decoder.state_dict().items():
            assert torch.equal(again[name], value.to(dtype)), name


def test_the_tower_is_cut_at_the_layer_and_layer_scale_changes_nothing(tmp_path: Path) -> None:
    plain = load_vision(parts(tmp_path))
    assert plain.config.depth == 4
    scaled = load_vision(dataclasses.replace(parts(tmp_path), layer_scale=0.1))
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert scaled.config.layer_scale == 0.1
    torch.testing.assert_close(scaled.forward_features(pixels), plain.forward_features(pixels), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lost", ["projector.", "decoder.", ""])
def test_a_file_without_its_projector_or_adapters_is_an_error(lost: str, tmp_path: Path) -> None:
    model_parts = dataclasses.replace(parts(tmp_path), lora=DecoderLoRA(rank=2))
    generator = torch.Generator().manual_seed(0)
    model, _ = build_language_model(model_parts, generator)
    add_decoder_adapters(model.decoder, DecoderLoRA(rank=2), generator)
    path = tmp_path / "model.safetensors"
    write_language_model(path, model_parts, model, vision=True, decoder=True)
    state, metadata = read_checkpoint(path)
    write_tensors({name: value for name, value in state.items() if not name.startswith(lost)}, path, metadata)
    with pytest.raises(CheckpointError, match=f"lacks the weights of its {lost[:-1] or 'projector'}"):
        read_language_model(path, CPU, torch.float32)


def test_a_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "tower.safetensors"
    write_checkpoint(load_model("builtin"), path, half=True)
    with pytest.raises(CheckpointError, match="is not a language model of this package"):
        read_language_model(path, CPU, torch.float32)


@torch.no_grad()
def test_the_tower_alone_is_loaded_by_timm_transformers_and_this_package(tmp_path: Path) -> None:
    import timm
    from transformers import AutoModel

    model_parts = dataclasses.replace(parts(tmp_path), layer_scale=0.1)
    model, _ = build_language_model(model_parts, torch.Generator().manual_seed(0))
    for number, parameter in enumerate(model.vision.parameters()):
        parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    path = tmp_path / "language.safetensors"
    write_language_model(path, model_parts, model, vision=True, decoder=False, half=False)
    tower = read_tower(path)
    assert (tower.config.image_size, tower.config.depth, tower.name) == (64, 4, "PE-Lang-L14-448")
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = model.image_features(pixels)
    torch.testing.assert_close(tower(pixels)[:, 1:], features)

    write_layout_directory(tower, tmp_path / "lang", "timm")
    config = json.loads((tmp_path / "lang" / "config.json").read_text())
    assert config["architecture"] == "vit_pe_lang_large_patch14_448"
    of_timm = timm.create_model(f"local-dir:{tmp_path / 'lang'}", pretrained=True).eval()
    torch.testing.assert_close(of_timm.forward_features(pixels)[:, 1:], features, atol=1e-4, rtol=1e-4)
    of_transformers = AutoModel.from_pretrained(tmp_path / "lang", trust_remote_code=False).eval()
    assert type(of_transformers).__name__ == "TimmWrapperModel"
    tokens = of_transformers(pixels, do_pooling=False).last_hidden_state
    torch.testing.assert_close(tokens[:, 1:], features, atol=1e-4, rtol=1e-4)

    write_checkpoint(tower, tmp_path / "lang.safetensors")
    again = load_model(tmp_path / "lang.safetensors")
    torch.testing.assert_close(again(pixels), tower(pixels))


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": "none"},
        {"encoder": "é" * 300},
        {"layer": 99},
        {"layer_scale": 1e308},
        {"decoder": ""},
        {"pool": 0},
        {"pool": "2"},
        {"media": {"image_size": 0}},
        {"media": {"image_size": 50}},
        {"lora": 3},
        {"more": 1},
    ],
)
def test_a_file_that_says_what_cannot_be_is_named(tmp_path: Path, changes: dict[str, object]) -> None:
    path = write_file(tmp_path / "damaged.safetensors")
    state, metadata = read_checkpoint(path)
    write_tensors(state, path, {METADATA: json.dumps(json.loads(metadata[METADATA]) | changes)})
    with pytest.raises(PerceptionEncoderError, match=r"damaged\.safetensors.*") as error:
        read_language_model(path, CPU, torch.float32)
    assert "\n" not in str(error.value)


def test_positions_are_not_rounded_to_the_type_of_the_weights(tmp_path: Path) -> None:
    """In bfloat16, the angle of a frequency of 0.1 was wrong by 0.04 radians after 200 tokens."""
    path, tables = write_file(tmp_path / "language.safetensors"), []
    for dtype in (torch.float32, torch.bfloat16):
        decoder: Any = read_language_model(path, CPU, dtype).model.decoder
        assert decoder.dtype == dtype
        tables.append(decoder.model.rotary_emb(torch.zeros(1), torch.arange(200)[None]))
    for exact, table in zip(*tables, strict=True):
        assert torch.equal(exact, table)
