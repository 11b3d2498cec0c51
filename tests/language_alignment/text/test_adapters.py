"""Adapters of a language model."""

from __future__ import annotations

import pytest
import torch

from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.language_alignment.text.adapters import (
    DecoderLoRA,
    adapter_state,
    add_decoder_adapters,
    load_adapters,
    merge_decoder_adapters,
)
from tests.language_models import tiny_llama

IDS = torch.arange(30)[None]


def trained(config: DecoderLoRA) -> torch.nn.Module:
    model = tiny_llama()
    generator = torch.Generator().manual_seed(0)
    for parameter in add_decoder_adapters(model, config, generator):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@torch.no_grad()
def test_new_adapters_change_nothing_and_are_drawn_from_the_generator() -> None:
    model, state = tiny_llama(), torch.get_rng_state()
    expected = model(IDS).logits
    add_decoder_adapters(model, DecoderLoRA(rank=2), torch.Generator().manual_seed(5))
    torch.testing.assert_close(model(IDS).logits, expected)
    other = tiny_llama()
    add_decoder_adapters(other, DecoderLoRA(rank=2), torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in adapter_state(model).items():
        assert torch.equal(value, adapter_state(other)[name])


@torch.no_grad()
@pytest.mark.parametrize("targets", ["attention", "mlp", "all"])
def test_merged_and_loaded_adapters_compute_the_same(targets: str) -> None:
    config = DecoderLoRA(rank=2, alpha=4, targets=targets)
    model = trained(config)
    expected, state = model(IDS).logits, {n: v.clone() for n, v in adapter_state(model).items()}
    assert not torch.allclose(expected, tiny_llama()(IDS).logits, atol=1e-3)
    merge_decoder_adapters(model)
    torch.testing.assert_close(model(IDS).logits, expected, atol=1e-4, rtol=1e-4)
    fresh = tiny_llama()
    assert set(model.state_dict()) == set(fresh.state_dict())
    load_adapters(fresh, config, state)
    torch.testing.assert_close(fresh(IDS).logits, expected, atol=1e-4, rtol=1e-4)
    merge_decoder_adapters(fresh)
    torch.testing.assert_close(fresh(IDS).logits, expected, atol=1e-4, rtol=1e-4)


def test_adapters_that_do_not_fit_are_an_error() -> None:
    state = adapter_state(trained(DecoderLoRA(rank=2)))
    with pytest.raises(CheckpointError, match="do not fit this language model"):
        load_adapters(tiny_llama(), DecoderLoRA(rank=4), state)
    with pytest.raises(ConfigError, match="has no linear layers called"):
        add_decoder_adapters(torch.nn.Sequential(torch.nn.Linear(2, 2)), DecoderLoRA(), torch.Generator())
    with pytest.raises(ConfigError, match="targets is 'heads'"):
        DecoderLoRA(targets="heads")
