"""Generation token by token, and answers in words."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.language_models.language_model import TextModel
from perception_encoder.language_models.reading import TorchReader, generate_tokens, sample_token
from perception_encoder.preprocess.conversation import Sampling, ask
from tests.tiny_language_models import NO_END, tiny_decoder, tiny_llama

MODEL = tiny_llama()
PROMPTS = [torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(length)) for length in (9, 4, 17)]


def embed(ids: torch.Tensor) -> torch.Tensor:
    return MODEL.get_input_embeddings()(ids).detach()


def tokens_of(prompts: list[torch.Tensor], sampling: Sampling, ends: frozenset[int] = NO_END) -> list[list[int]]:
    rows = list(generate_tokens(TorchReader(MODEL), [embed(prompt) for prompt in prompts], ends, sampling))
    return [[token for token in column if token is not None] for column in zip(*rows, strict=True)]


def test_greedy_tokens_are_the_librarys() -> None:
    for prompt in PROMPTS:
        expected = MODEL.generate(prompt[None], max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert tokens_of([prompt], Sampling(max_tokens=12)) == [expected[0, len(prompt) :].tolist()]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_does_not_depend_on_those_beside_it(temperature: float) -> None:
    sampling = Sampling(max_tokens=10, temperature=temperature, seed=3)
    alone = [tokens_of([prompt], sampling)[0] for prompt in PROMPTS]
    assert tokens_of(PROMPTS, sampling) == alone


def test_a_prompt_ends_at_an_end_token_and_the_others_go_on() -> None:
    first, second = tokens_of(PROMPTS[:2], Sampling(max_tokens=12))
    end = next(token for token in first if token not in second)
    cut, whole = tokens_of(PROMPTS[:2], Sampling(max_tokens=12), frozenset({end}))
    assert cut == first[: first.index(end)]
    assert whole == second


def test_draws_follow_the_probabilities_of_the_top() -> None:
    logits = torch.tensor([0.6, 0.25, 0.1, 0.05]).log()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([sample_token(logits, Sampling(temperature=1.0, top_p=0.8), generator) for _ in range(2000)])
    share = (drawn == 0).float().mean()
    assert set(drawn.tolist()) == {0, 1}
    assert abs(float(share) - 0.6 / 0.85) < 0.04
    cold = {sample_token(logits, Sampling(temperature=0.02), generator) for _ in range(50)}
    assert cold == {0}
    assert (
        sample_token(100 * logits, Sampling(temperature=1e-300), generator) == 0
    )  # before: no probabilities, HTTP 500


def test_each_answer_is_penalised_for_its_own_tokens() -> None:
    """Against whole passes, without a cache, each prompt by itself."""
    sampling = Sampling(max_tokens=12, presence_penalty=1.0, frequency_penalty=0.5)
    negative = Sampling(presence_penalty=-2.0)
    assert sample_token(torch.tensor([3.0, 2.0, 1.5]), negative, torch.Generator(), [2]) == 2
    expected = []
    for prompt in PROMPTS:
        ids = prompt.tolist()
        for _ in range(sampling.max_tokens):
            given = ids[len(prompt) :]
            counts = torch.bincount(torch.tensor(given, dtype=torch.long), minlength=258)
            logits = MODEL(torch.tensor([ids])).logits[0, -1]
            ids.append(int((logits - 0.5 * counts - 1.0 * (counts > 0)).argmax()))
        expected.append(ids[len(prompt) :])
    assert expected != tokens_of(PROMPTS, Sampling(max_tokens=12))
    assert tokens_of(PROMPTS, sampling) == expected


def test_the_next_token_after_prompts_that_begin_alike() -> None:
    decoder = MODEL
    embeddings = torch.randn(9, 32, generator=torch.Generator().manual_seed(0))
    prompts = [embeddings, embeddings[:6], torch.cat([embeddings[:4], embeddings[:3]])]
    together = list(TorchReader(decoder).read_each(prompts))
    for logits, prompt in zip(together, prompts, strict=True):
        alone = decoder(inputs_embeds=prompt[None]).logits[0, -1]
        torch.testing.assert_close(logits, alone.detach(), atol=1e-4, rtol=1e-4)
    assert list(TorchReader(decoder).read_each([])) == []


def test_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="tiny reads only text"):
        TextModel("tiny", tiny_decoder()).generate([ask("what?", [Image.new("RGB", (8, 8))])])
