"""A Llama that OpenVINO executes, against transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Qwen2Config, Qwen2ForCausalLM

pytest.importorskip("openvino")
from perception_encoder.language_models import openvino_llama
from perception_encoder.language_models.decoder import SMOLLM2, SMOLLM2_PACKAGE, load_decoder
from perception_encoder.language_models.language_model import LanguageModel
from perception_encoder.language_models.openvino_llama import OpenVinoLlama
from perception_encoder.language_models.reading import TorchReader, generate_tokens
from perception_encoder.preprocess.conversation import Sampling, ask
from perception_encoder.runtime.runtime import Precision
from tests.tiny_language_models import NO_END, SCALED, SIZES, embedded, llama, tiny_language_model


def tokens_of(reader: Any, prompts: list[torch.Tensor], sampling: Sampling) -> list[list[int | None]]:
    return list(generate_tokens(reader, prompts, NO_END, sampling))


@pytest.mark.parametrize(
    "model",
    [
        llama(),
        llama(tie_word_embeddings=True),
        llama(num_key_value_heads=6),
        llama(num_key_value_heads=1, head_dim=16),
        llama(rope_parameters=SCALED),
        llama().half().float(),
        llama().bfloat16().float(),
    ],
    ids=["grouped", "tied", "all heads", "other width", "scaled positions", "stored in float16", "stored in bfloat16"],
)
@torch.no_grad()
def test_logits_are_the_librarys(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several prompts, read in chunks, and of the tokens after them."""
    monkeypatch.setattr(openvino_llama, "CHUNK", 16)
    prompts = embedded(model, 40, 25, 16)
    reader = OpenVinoLlama(model, "float32")
    logits, step = reader.read(prompts)
    for token in (None, 5, 96, 5):
        if token is not None:
            logits = step(torch.tensor([token] * 3))
            new = model.get_input_embeddings()(torch.tensor([token]))
            prompts = [torch.cat([prompt, new]) for prompt in prompts]
        expected = torch.stack([model(inputs_embeds=prompt[None]).logits[0, -1] for prompt in prompts])
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lengths", [(12,), (12, 7, 30)], ids=["one", "batch"])
@pytest.mark.parametrize(
    "sampling",
    [Sampling(max_tokens=25), Sampling(max_tokens=25, temperature=0.8, top_p=0.9, seed=5, frequency_penalty=0.5)],
    ids=["greedy", "drawn"],
)
def test_the_same_tokens_as_torch(lengths: tuple[int, ...], sampling: Sampling) -> None:
    model = llama()
    prompts = embedded(model, *lengths)
    assert tokens_of(OpenVinoLlama(model, "float32"), prompts, sampling) == tokens_of(
        TorchReader(model), prompts, sampling
    )


def test_the_same_tokens_as_torch_with_smollm2() -> None:
    pytest.importorskip(SMOLLM2_PACKAGE)
    model: Any = load_decoder(SMOLLM2).model
    prompt = model.get_input_embeddings()(torch.arange(500, 530)).detach()
    sampling = Sampling(max_tokens=20)
    assert tokens_of(OpenVinoLlama(model, "float32"), [prompt], sampling) == tokens_of(
        TorchReader(model), [prompt], sampling
    )


def test_the_next_token_after_prompts_that_begin_alike() -> None:
    model = llama()
    first, second = embedded(model, 9, 4)
    prompts = [torch.cat([first, second]), torch.cat([first, second[:1]]), first]
    reader = OpenVinoLlama(model, "float32")
    for ours, theirs in zip(reader.read_each(prompts), TorchReader(model).read_each(prompts), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(reader.read_each([first]), TorchReader(model).read_each([first]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert list(reader.read_each([])) == []


def test_two_answers_at_once_do_not_mix() -> None:
    model, sampling = llama(), Sampling(max_tokens=10)
    reader, prompts = OpenVinoLlama(model, "float32"), embedded(model, 12, 7)
    alone = [tokens_of(reader, [prompt], sampling) for prompt in prompts]
    streams = [generate_tokens(reader, [prompt], NO_END, sampling) for prompt in prompts]
    together = list(zip(*streams, strict=True))
    assert [list(column) for column in zip(*together, strict=True)] == alone
    half = generate_tokens(reader, [prompts[0]], NO_END, sampling)
    next(half)
    half.close()  # a cancelled answer
    assert tokens_of(reader, [prompts[0]], sampling) == alone[0]


@torch.no_grad()
def test_in_bfloat16_it_is_as_near_as_the_library_is() -> None:
    """Over forty prompts of up to 200 tokens, as positions must not be rounded."""
    model, half = llama(), llama().to(torch.bfloat16)
    half.model.rotary_emb.inv_freq.data = model.model.rotary_emb.inv_freq.data
    reader = OpenVinoLlama(half, "bfloat16")
    theirs, ours = 0.0, 0.0
    for seed in range(40):
        ids = torch.randint(0, 97, (1, 200 if seed < 4 else 30), generator=torch.Generator().manual_seed(seed))
        exact = model(ids).logits[0, -1]
        theirs += float((half(ids).logits[0, -1].float() - exact).square().sum())
        logits, _ = reader.read([half.get_input_embeddings()(ids[0])])
        ours += float((logits[0] - exact).square().sum())
    assert ours < 1.1**2 * theirs


@torch.no_grad()
@pytest.mark.parametrize(("inputs", "cosine"), [(0, 0.99999), (32, 0.95)])
def test_in_int8_weights_are_rounded_to_a_127th_of_the_largest_of_64(
    inputs: int, cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is that of the rounded weights, up to the rounding of inputs."""
    monkeypatch.setattr(openvino_llama, "QUANTIZED_TOGETHER", inputs)
    model, rounded = llama(hidden_size=192, intermediate_size=128), llama(hidden_size=192, intermediate_size=128)
    for module in rounded.modules():
        if isinstance(module, torch.nn.Linear):
            parts = module.weight.unflatten(1, (-1, 64))
            scale = parts.abs().amax(2, keepdim=True) / 127
            module.weight.copy_(((parts / scale).round() * scale).flatten(1))
    model.lm_head.weight[3] = rounded.lm_head.weight[3] = 0
    prompts = embedded(model, 30, 12)
    logits, step = OpenVinoLlama(model, "int8").read(prompts)
    logits = torch.cat([logits, step(torch.tensor([4, 4]))])
    new = model.get_input_embeddings()(torch.tensor([4]))
    longer = prompts + [torch.cat([prompt, new]) for prompt in prompts]
    expected = torch.stack([rounded(inputs_embeds=prompt[None]).logits[0, -1] for prompt in longer])
    assert torch.cosine_similarity(logits, expected).min() > cosine
    assert logits[:, 3].abs().max() == 0


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_the_models_own_weights_stay_as_they_are(precision: Precision, dtype: torch.dtype) -> None:
    """Its embeddings are read from them, and with tied ones they are the last product's weight."""
    model = llama(tie_word_embeddings=True).to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    OpenVinoLlama(model, precision).read(embedded(model, 5))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_other_models_are_left_to_torch() -> None:
    assert OpenVinoLlama.fits(llama())
    assert not OpenVinoLlama.fits(llama(hidden_act="gelu"))
    assert not OpenVinoLlama.fits(llama(attention_bias=True))
    assert not OpenVinoLlama.fits(Qwen2ForCausalLM(Qwen2Config(**SIZES)))
    assert not OpenVinoLlama.fits(llama().to("meta"))


def test_answers_about_images_are_the_same() -> None:
    """One, several, a batch, a stream, and yes or no."""
    in_torch = tiny_language_model()
    reader = OpenVinoLlama(in_torch.decoder.model, "float32")
    model = LanguageModel("tiny", in_torch.model, in_torch.decoder, in_torch.media, reader)
    noise, wide = Image.effect_noise((64, 64), 90).convert("RGB"), Image.effect_noise((128, 32), 90).convert("RGB")
    conversations = [ask("what?", [noise]), ask("which one?", [noise, wide]), ask("hello")]
    sampling = Sampling(max_tokens=12)

    def texts(model: LanguageModel) -> list[str]:
        streamed = ["".join(model.generate_stream(conversation, sampling)) for conversation in conversations]
        return [*(reply.text for reply in model.generate(conversations, sampling)), *streamed]

    assert texts(model) == texts(in_torch)
    assert model.yes_probabilities(conversations) == pytest.approx(in_torch.yes_probabilities(conversations), abs=1e-5)
    stop = texts(model)[0][2:4]
    (stopped,) = model.generate(conversations[:1], Sampling(max_tokens=12, stop=(stop,)))
    assert stopped == in_torch.generate(conversations[:1], Sampling(max_tokens=12, stop=(stop,)))[0]
    assert stopped.finished and stop not in stopped.text
