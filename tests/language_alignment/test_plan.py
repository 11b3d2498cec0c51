"""Plans of language alignment, against the models themselves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from perception_encoder.errors import ConfigError
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.recipes import (
    SHAPES,
    DecoderShape,
    custom_questions,
    decoder_part,
    frozen,
    plan_language,
    third_stage,
)
from perception_encoder.language_alignment.run import LanguageTrainee
from perception_encoder.language_models.decoder import DecoderLoRA, add_decoder_adapters
from perception_encoder.language_models.model import LanguageBatch
from perception_encoder.stages import LANGUAGE_ALIGNMENT, ConfiguredRecipe
from perception_encoder.training.cost import Trained, TrainingPlan, find_device
from synthetic.builtin.recipes import language_builtin
from tests.tiny_language_models import tiny_llama, write_tiny_decoder


def planned(config: LanguageConfig, devices: int) -> TrainingPlan:
    return ConfiguredRecipe(LANGUAGE_ALIGNMENT, config).plan(find_device("h100"), devices)


TINY = DecoderShape(32, 64, 2, 4, 2, 8, 258, 2)
"""The sizes of `tiny_llama`."""


def test_parameters_and_operations_are_those_of_the_model() -> None:
    model = tiny_llama()
    assert decoder_part(TINY, 1, 0).parameters == sum(parameter.numel() for parameter in model.parameters())
    model.set_attn_implementation("eager")  # products of fused attention are not counted on a CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 40, dtype=torch.long))
    assert counter.get_total_flops() == pytest.approx(decoder_part(TINY, 40, 40).forward, rel=1e-3)


@pytest.mark.parametrize("targets", ["attention", "mlp", "all"])
def test_adapters_are_those_of_the_model(targets: str) -> None:
    adapters = add_decoder_adapters(tiny_llama(), DecoderLoRA(rank=3, targets=targets), torch.Generator())
    assert decoder_part(TINY, 1, 0, (3, targets)).trained == sum(parameter.numel() for parameter in adapters)


def test_activations_are_about_what_autograd_saves() -> None:
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model = tiny_llama()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    embeddings = torch.rand(4, 100, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.get_decoder()(inputs_embeds=embeddings, use_cache=False)
    measured = sum(size for pointer, size in saved.items() if pointer not in weights)
    assert 4 * decoder_part(TINY, 100, 0).held() == pytest.approx(measured, rel=0.25)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("smollm2", 134.5),
        ("HuggingFaceTB/SmolLM2-360M-Instruct", 361.8),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1711),
        ("meta-llama/Llama-3.2-3B-Instruct", 3213),
    ],
)
def test_the_recipes_language_models_have_their_published_sizes(name: str, millions: float) -> None:
    assert decoder_part(SHAPES[name], 1, 0).parameters / 1e6 == pytest.approx(millions, rel=2e-3)


def test_a_plan_has_the_text_that_the_largest_image_or_video_leaves_room_for() -> None:
    tokens = {
        frozen("l14", "llama"): 1_024 + 2_048,  # beside 8 frames of 1,024
        language_builtin(): 400,  # a row is shorter than the context
        third_stage("l14"): 11_520,
        dataclasses.replace(custom_questions(), context=None): 2 * 5 * 256,
    }
    for config, count in tokens.items():
        assert f"{count:,} tokens in all" in plan_language(config)[1]


def test_own_questions_fit_a_gpu_and_what_cannot_be_planned_is_refused() -> None:
    plan = planned(custom_questions(), 1)
    assert sum(plan.memory().values()) < 0.9 * 80e9
    with pytest.raises(ConfigError, match="a batch of 8 cannot be shared by 16"):
        plan_language(custom_questions(), 16)
    with pytest.raises(ConfigError, match="mine cannot be planned"):
        plan_language(dataclasses.replace(custom_questions(), decoder="mine"))


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({"train_decoder": True}, True),
        ({}, False),
        ({"train_decoder": True, "lora": DecoderLoRA(rank=4)}, (4, "all")),
    ],
    ids=["whole", "frozen", "adapters"],
)
def test_the_cost_of_a_batch_is_what_it_computes(tmp_path: Path, settings: dict[str, Any], trained: Trained) -> None:
    name = str(write_tiny_decoder(tmp_path))
    config = LanguageConfig(decoder=name, image_size=64, pool=1, context=300, steps=8, **settings)
    trainee = LanguageTrainee.of(config)
    trainee.model.decoder.set_attn_implementation("eager")
    is_image = torch.zeros(2, 60, dtype=torch.bool)
    is_image[:, 3:19] = True
    labels = torch.full((2, 60), -100)
    labels[:, 40:] = 7
    features = torch.rand(2, 16, 192, requires_grad=True)
    batch = LanguageBatch(torch.ones(2, 60, dtype=torch.long), labels, is_image, None, features, 0, 40, 2)
    with FlopCounterMode(display=False) as counter:
        trainee.module(batch.ids, batch.labels, batch.is_image, batch.images)[0].sum().backward()
    projector = 3 * 2 * 2 * 16 * sum(p.numel() for p in trainee.model.projector.parameters() if p.dim() == 2)
    part = decoder_part(TINY, 60, 20, trained)
    assert counter.get_total_flops() == pytest.approx(2 * part.flops() + projector, rel=0.02)
