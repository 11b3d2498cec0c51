"""Files of trained language models."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.language_alignment.language_model import LanguageModel
from perception_encoder.language_alignment.media import MediaConfig
from perception_encoder.language_alignment.text.adapters import DecoderLoRA, add_decoder_adapters
from perception_encoder.language_alignment.weights import (
    Parts,
    build_language_model,
    load_vision,
    read_language_model,
    write_language_model,
)
from perception_encoder.models.checkpoints.weights import write_checkpoint
from perception_encoder.preprocess.conversation import Sampling, ask
from tests.language_models import write_tiny_decoder

NOISE = Image.effect_noise((96, 64), 90).convert("RGB")
CPU = torch.device("cpu")


def parts(directory: Path) -> Parts:
    decoder = write_tiny_decoder(directory / "decoder")
    return Parts(encoder="builtin", layer=3, decoder=str(decoder), media=MediaConfig(image_size=64))


@pytest.mark.parametrize("lora", [None, DecoderLoRA(rank=2)])
@pytest.mark.parametrize("vision", [False, True])
def test_a_file_gives_back_the_model_that_was_written(tmp_path: Path, lora: DecoderLoRA | None, vision: bool) -> None:
    own = dataclasses.replace(parts(tmp_path), lora=lora, layer_scale=0.1 if vision else None)
    generator = torch.Generator().manual_seed(0)
    model, decoder = build_language_model(own, generator)
    if lora:
        add_decoder_adapters(model.decoder, lora, generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name if name.startswith("decoder.") and lora else vision or "vision." not in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    path = tmp_path / "model.safetensors"
    write_language_model(path, own, model, vision=vision, decoder=True, half=False)
    again = read_language_model(path, CPU, torch.float32)
    conversation, sampling = ask("what?", [NOISE]), Sampling(max_tokens=10)
    expected = LanguageModel("x", model, decoder, own.media).generate([conversation], sampling)
    assert again.generate([conversation], sampling)[0].text == expected[0].text
    assert again.name == "model" and again.media.tiles == 4
    assert read_language_model(path, CPU, torch.float32, tiles=0).media.tiles == 0


def test_the_tower_is_cut_at_the_layer_and_layer_scale_changes_nothing(tmp_path: Path) -> None:
    plain = load_vision(parts(tmp_path))
    assert plain.config.depth == 4
    scaled = load_vision(dataclasses.replace(parts(tmp_path), layer_scale=0.1))
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert scaled.config.layer_scale == 0.1
    torch.testing.assert_close(scaled.forward_features(pixels), plain.forward_features(pixels), atol=1e-4, rtol=1e-4)


def test_a_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    from perception_encoder.models.checkpoints.weights import load_model

    path = tmp_path / "tower.safetensors"
    write_checkpoint(load_model("builtin"), path, half=True)
    with pytest.raises(CheckpointError, match="is not a language model of this package"):
        read_language_model(path, CPU, torch.float32)


def test_an_image_size_that_patches_do_not_fill_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="image_size is 100; it must be a multiple of the encoder's patch, 16"):
        load_vision(dataclasses.replace(parts(tmp_path), media=MediaConfig(image_size=100)))
