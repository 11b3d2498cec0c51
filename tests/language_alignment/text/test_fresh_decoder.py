"""A small language model of random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from perception_encoder.language_alignment.text.decoder import load_decoder
from perception_encoder.language_alignment.text.fresh_decoder import make_fresh_decoder, write_fresh_decoder

TEXTS = ["What colour is the mug?", "the mug is blue", "[012, 345, 678, 901]"]


def test_the_same_seed_gives_the_same_model() -> None:
    one, same, other = (make_fresh_decoder(TEXTS, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert one.dim == 128
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, same.model.state_dict()[name])
    assert not torch.equal(next(one.model.parameters()), next(other.model.parameters()))


def test_tokens_are_made_from_the_texts_but_digits_stand_alone() -> None:
    tokenizer = make_fresh_decoder(TEXTS * 20, torch.Generator()).tokenizer
    assert len(tokenizer.tokenize("What colour")) == 2
    assert len(tokenizer.tokenize("345")) == 3
    ids = tokenizer("Größe 17: ✓", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == "Größe 17: ✓", "any text can be written"


def test_it_is_written_once_in_transformers_layout(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    path = write_fresh_decoder(tmp_path / "decoder", TEXTS, generator)
    decoder = load_decoder(path)
    assert decoder.end_tokens == {decoder.tokenizer.eos_token_id}
    rows = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert decoder.tokenizer.apply_chat_template(rows, tokenize=False) == "<|user|>a<|end|><|assistant|>b<|end|>"
    before = (path / "model.safetensors").read_bytes()
    assert write_fresh_decoder(path, TEXTS, generator) == path and (path / "model.safetensors").read_bytes() == before
