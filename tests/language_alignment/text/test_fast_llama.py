"""Single steps of a packed Llama, against transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from perception_encoder.language_alignment.text.fast_llama import FastLlama
from perception_encoder.language_alignment.text.reading import TorchReader
from perception_encoder.language_alignment.text.text_model import generate_tokens
from perception_encoder.models.initialization import drawn_from
from perception_encoder.preprocess.conversation import Sampling

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.4,
}
SCALED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 10000.0,
}


def llama(**settings: Any) -> Any:
    with drawn_from(torch.Generator().manual_seed(0)):
        model = LlamaForCausalLM(LlamaConfig(**{**SIZES, **settings})).eval()
        for name, parameter in model.named_parameters():
            if "norm" in name:
                torch.nn.init.uniform_(parameter, 0.5, 2)
    return model


@pytest.mark.parametrize(
    "model",
    [llama(), llama(tie_word_embeddings=True), llama(num_key_value_heads=6), llama(rope_parameters=SCALED)],
    ids=["grouped", "tied", "all heads", "scaled positions"],
)
@torch.no_grad()
def test_logits_are_the_librarys(model: Any) -> None:
    ids = torch.randint(0, 97, (1, 40), generator=torch.Generator().manual_seed(1))
    expected = model(ids).logits[0]
    assert FastLlama.fits(model)
    prompt = model(ids[:, :25], use_cache=True)
    step = FastLlama(model).continue_from(prompt.past_key_values, 15)
    for position in range(25, 40):
        torch.testing.assert_close(step(int(ids[0, position])), expected[position], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_in_bfloat16_it_is_as_near_as_the_library_is() -> None:
    """Over forty prompts: of a single one, either may be the nearer by half."""
    model, half = llama(), llama().to(torch.bfloat16)
    theirs, ours = 0.0, 0.0
    for seed in range(40):
        ids = torch.randint(0, 97, (1, 30), generator=torch.Generator().manual_seed(seed))
        exact = model(ids).logits[0, 20:]
        theirs += float((half(ids).logits[0, 20:].float() - exact).square().sum())
        step = FastLlama(half).continue_from(half(ids[:, :20], use_cache=True).past_key_values, 10)
        logits = torch.stack([step(int(token)) for token in ids[0, 20:]]).float()
        ours += float((logits - exact).square().sum())
    assert ours < 1.1**2 * theirs


def test_weights_are_held_once() -> None:
    model = llama(tie_word_embeddings=True)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    fast = FastLlama(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    packed = {weight.untyped_storage().data_ptr() for block in fast.blocks for weight in block if weight.dim() == 2}
    shared = {
        module.weight.untyped_storage().data_ptr()
        for layer in model.model.layers
        for module in layer.modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert packed == shared and fast.output.data_ptr() == model.lm_head.weight.data_ptr()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_same_tokens_as_without(temperature: float) -> None:
    model = llama()
    prompt = model.get_input_embeddings()(torch.arange(12)).detach()
    sampling = Sampling(max_tokens=30, temperature=temperature, seed=5)
    plain, packed = TorchReader(llama(), packed=False), TorchReader(model)
    slow = [row[0] for row in generate_tokens(plain, [prompt], frozenset({-1}), sampling)]
    fast = [row[0] for row in generate_tokens(packed, [prompt], frozenset({-1}), sampling)]
    assert slow == fast and len(fast) == 30
    end = slow[7]
    assert end is not None
    ended = [row[0] for row in generate_tokens(packed, [prompt], frozenset({end}), sampling)]
    assert ended == slow[: slow.index(end)]


def test_one_prompt_is_continued_fast_and_several_by_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    continue_from, lengths = FastLlama.continue_from, list[int]()

    def counted(self: FastLlama, cache: Any, room: int) -> Any:
        lengths.append(room)
        return continue_from(self, cache, room)

    monkeypatch.setattr(FastLlama, "continue_from", counted)
    prompts = [model.get_input_embeddings()(torch.arange(length)).detach() for length in (12, 7)]
    sampling, no_end = Sampling(max_tokens=5), frozenset({-1})
    both = list(generate_tokens(TorchReader(model), prompts, no_end, sampling))
    assert lengths == [] and both == list(generate_tokens(TorchReader(model, packed=False), prompts, no_end, sampling))
    assert len(list(generate_tokens(TorchReader(model), prompts[:1], no_end, sampling))) == 5 and lengths == [5]


def test_other_models_are_left_to_the_library() -> None:
    assert not FastLlama.fits(llama(attention_bias=True))
    assert not FastLlama.fits(llama(hidden_act="gelu"))
    assert not FastLlama.fits(Qwen2ForCausalLM(Qwen2Config(**SIZES)))
    assert not FastLlama.fits(llama().to("meta"))
