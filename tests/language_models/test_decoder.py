"""Language models: loading them, fresh ones, and adapters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from perception_encoder.errors import CheckpointError, ConfigError, WeightsUnavailableError
from perception_encoder.language_models.decoder import (
    DecoderLoRA,
    adapter_state,
    add_decoder_adapters,
    load_adapters,
    load_decoder,
    make_decoder,
    make_fresh_decoder,
    merge_decoder_adapters,
    write_fresh_decoder,
)
from tests.tiny_language_models import byte_tokenizer, tiny_llama, write_tiny_decoder


def test_a_directory_in_transformers_layout_is_loaded(tmp_path: Path) -> None:
    path = write_tiny_decoder(tmp_path)
    decoder = load_decoder(path)
    assert decoder.dim == 32 and decoder.end_tokens == {257}
    assert decoder.prompts.context == 512
    assert not any(parameter.requires_grad for parameter in decoder.model.parameters())
    ids = torch.arange(20)[None]
    torch.testing.assert_close(decoder.model(ids).logits, tiny_llama()(ids).logits)
    for stored in (torch.float16, torch.bfloat16):
        tiny_llama().to(stored).save_pretrained(path)
        assert load_decoder(path, None).model.dtype == stored and load_decoder(path).model.dtype == torch.float32


def test_a_model_that_cannot_answer_is_refused() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    with pytest.raises(ConfigError, match="tiny has no chat template"):
        make_decoder("tiny", tiny_llama(), byte_tokenizer(None))
    assert make_decoder("tiny", tiny_llama(), byte_tokenizer(None), chat_template="x").prompts.template == "x"
    with pytest.raises(ConfigError, match="context is 513"):
        make_decoder("tiny", tiny_llama(), byte_tokenizer(), context=513)
    config = T5Config(vocab_size=300, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(ConfigError, match="is an encoder-decoder"):
        make_decoder("t5", T5ForConditionalGeneration(config), byte_tokenizer())


def test_an_incomplete_directory_names_the_missing_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"missing config\.json, tokenizer\.json"):
        load_decoder(tmp_path)
    tiny_llama().save_pretrained(tmp_path, max_shard_size="20KB")
    parts = sorted(path.name for path in tmp_path.glob("model-*.safetensors"))
    assert len(parts) > 2
    missing = [parts[1], parts[-1]]
    for name in missing:
        (tmp_path / name).unlink()
    with pytest.raises(WeightsUnavailableError, match="is incomplete: missing ") as error:
        load_decoder(tmp_path)
    assert all(name in str(error.value) for name in (str(tmp_path), "tokenizer.json", *missing))
    with pytest.raises(WeightsUnavailableError, match=r"none\.gguf cannot be read"):
        load_decoder(tmp_path / "none.gguf")
    (tmp_path / "model.safetensors.index.json").write_text("[" * 100_000)
    with pytest.raises(WeightsUnavailableError, match=r"model\.safetensors\.index\.json cannot be read"):
        load_decoder(tmp_path)


TEXTS = ["What colour is the mug?", "the mug is blue", "[012, 345, 678, 901]"]


def test_a_fresh_model_has_the_texts_tokens_and_single_digits_and_is_its_seeds() -> None:
    one, same, other = (make_fresh_decoder(TEXTS * 20, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert one.dim == 128
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, same.model.state_dict()[name])
    assert not torch.equal(next(one.model.parameters()), next(other.model.parameters()))
    tokenizer = one.tokenizer
    assert len(tokenizer.tokenize("What colour")) == 2 and len(tokenizer.tokenize("345")) == 3
    ids = tokenizer("Größe 17: ✓", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == "Größe 17: ✓", "any text can be written"


def test_a_fresh_model_is_written_once_in_transformers_layout(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    path = write_fresh_decoder(tmp_path / "decoder", TEXTS, generator)
    decoder = load_decoder(path)
    assert decoder.end_tokens == {decoder.tokenizer.eos_token_id}
    rows = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert decoder.tokenizer.apply_chat_template(rows, tokenize=False) == "<|user|>a<|end|><|assistant|>b<|end|>"
    before = (path / "model.safetensors").read_bytes()
    assert write_fresh_decoder(path, TEXTS, generator) == path and (path / "model.safetensors").read_bytes() == before


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


@pytest.mark.parametrize("lost", [r"layers\.0\.mlp\.up_proj", r"\.mlp\.", r"^model\.norm"])
def test_a_file_without_some_weights_is_an_error(lost: str, tmp_path: Path) -> None:
    """transformers draws them at random, and says so in a log."""
    write_tiny_decoder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not re.search(lost, name)}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks the weights model\."):
        load_decoder(tmp_path)
