"""Loading language models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from perception_encoder.errors import ConfigError, WeightsUnavailableError
from perception_encoder.language_alignment.text.decoder import load_decoder, make_decoder
from tests.language_models import byte_tokenizer, tiny_llama, write_tiny_decoder


def test_a_directory_in_transformers_layout_is_loaded(tmp_path: Path) -> None:
    decoder = load_decoder(write_tiny_decoder(tmp_path))
    assert decoder.dim == 32 and decoder.end_tokens == {257}
    assert decoder.prompts.context == 512
    assert not any(parameter.requires_grad for parameter in decoder.model.parameters())
    ids = torch.arange(20)[None]
    torch.testing.assert_close(decoder.model(ids).logits, tiny_llama()(ids).logits)


def test_a_model_without_a_chat_template_is_an_error_and_one_can_be_given() -> None:
    with pytest.raises(ConfigError, match="tiny has no chat template"):
        make_decoder("tiny", tiny_llama(), byte_tokenizer(None))
    assert make_decoder("tiny", tiny_llama(), byte_tokenizer(None), chat_template="x").prompts.template == "x"


def test_an_encoder_decoder_is_refused() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=300, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(ConfigError, match="is an encoder-decoder"):
        make_decoder("t5", T5ForConditionalGeneration(config), byte_tokenizer())


def test_a_context_longer_than_the_models_is_refused() -> None:
    with pytest.raises(ConfigError, match="context is 513; tiny reads at most 512 tokens"):
        make_decoder("tiny", tiny_llama(), byte_tokenizer(), context=513)


def test_a_directory_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match="could not be loaded"):
        load_decoder(tmp_path)
    with pytest.raises(WeightsUnavailableError, match="is not a file"):
        load_decoder(tmp_path / "none.gguf")
