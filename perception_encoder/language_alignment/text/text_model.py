"""Answer in words by a decoder-only language model: whole or streamed, single or in batches."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from perception_encoder.errors import ConfigError
from perception_encoder.inference.conversation.assistant import Assistant
from perception_encoder.language_alignment.text.decoder import Decoder
from perception_encoder.language_alignment.text.fast_llama import FastLlama
from perception_encoder.language_alignment.text.generation import generate_tokens
from perception_encoder.preprocess.conversation import Message, Reply, Sampling

GENERATED_AT_ONCE = 8
"""Conversations that are answered at once."""


class TextModel(Assistant):
    """A language model for conversations without images and videos.

    Attributes: `name`, `decoder` (the torch module, tokenizer and prompts).
    """

    def __init__(self, name: str, decoder: Decoder) -> None:
        self.name, self.decoder = name, decoder

    def generate(self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None) -> list[Reply]:
        """Return an answer to each conversation, greedily by default; ContextLengthError for one that does not fit."""
        sampling, answers = sampling or Sampling(), list[Reply]()
        for start in range(0, len(conversations), GENERATED_AT_ONCE):
            answers += self._answer(conversations[start : start + GENERATED_AT_ONCE], sampling)
        return answers

    def generate_stream(
        self, conversation: Sequence[Message], sampling: Sampling | None = None
    ) -> Generator[str, None, Reply]:
        """Yield the answer to one conversation piece by piece, whole characters at a time, and return all of it."""
        sampling = sampling or Sampling()
        prompt, cut = self._prompt(conversation, sampling)
        sampling = self._within_context(sampling, prompt)
        tokens: list[int] = []
        streamed = ""
        for (token,) in self._generate([prompt], sampling):
            assert token is not None
            tokens.append(token)
            text, ended = self._text(tokens, sampling)
            stable = text if ended else _without_partial(text, sampling.stop)
            if len(stable) > len(streamed):
                yield stable[len(streamed) :]
                streamed = stable
            if ended:
                return Reply(text, len(prompt), len(tokens), True, cut)
        text, _ = self._text(tokens, sampling)
        if len(text) > len(streamed):
            yield text[len(streamed) :]
        return Reply(text, len(prompt), len(tokens), len(tokens) < sampling.max_tokens, cut)

    def _answer(self, conversations: Sequence[Sequence[Message]], sampling: Sampling) -> list[Reply]:
        prompts, cuts = zip(*(self._prompt(each, sampling) for each in conversations), strict=True)
        sampling = self._within_context(sampling, *prompts)
        tokens: list[list[int]] = [[] for _ in prompts]
        ended = [False] * len(prompts)
        for row in self._generate(prompts, sampling):
            for number, token in enumerate(row):
                if token is None:
                    ended[number] = True
                elif not ended[number]:
                    tokens[number].append(token)
                    ended[number] = bool(sampling.stop) and self._text(tokens[number], sampling)[1]
            if all(ended):
                break
        return [
            Reply(self._text(own, sampling)[0], len(prompt), len(own), end or len(own) < sampling.max_tokens, cut)
            for own, prompt, cut, end in zip(tokens, prompts, cuts, ended, strict=True)
        ]

    def _within_context(self, sampling: Sampling, *prompts: Tensor) -> Sampling:
        """Clip the length of the answers to what the context has room for; see `Sampling.cut`."""
        room = self.decoder.prompts.context - max(len(prompt) for prompt in prompts)
        return replace(sampling, max_tokens=min(sampling.max_tokens, room))

    @cached_property
    def _fast(self) -> FastLlama | None:
        """Made for the first single answer: it packs the weights."""
        return FastLlama(self.decoder.model) if FastLlama.fits(self.decoder.model) else None

    def _generate(self, prompts: Sequence[Tensor], sampling: Sampling) -> Iterator[list[int | None]]:
        fast = self._fast if len(prompts) == 1 else None
        return generate_tokens(self.decoder.model, prompts, self.decoder.end_tokens, sampling, fast)

    def _text(self, tokens: list[int], sampling: Sampling) -> tuple[str, bool]:
        """The text of an answer's tokens up to a stop, and whether there is one."""
        text = self.decoder.tokenizer.decode(tokens, skip_special_tokens=True)
        ends = [at for stop in sampling.stop if (at := text.find(stop)) >= 0]
        return (text[: min(ends)], True) if ends else (text, False)

    @torch.inference_mode()
    def _prompt(self, conversation: Sequence[Message], sampling: Sampling) -> tuple[Tensor, int]:
        """The decoder's input (T, dim) for a conversation, and how many text tokens were cut."""
        if any(message.media for message in conversation):
            raise ConfigError(f"{self.name} reads texts alone; images and videos need a model that sees")
        prompt = self.decoder.prompts.generation_prompt(conversation, [], sampling.max_tokens, sampling.cut)
        embed = self.decoder.model.get_input_embeddings()  # type: ignore[operator]
        return embed(torch.tensor(prompt.ids, device=embed.weight.device)), prompt.cut


def _without_partial(text: str, stops: Sequence[str]) -> str:
    """The text without what may still change: half a character, or the beginning of a stop."""
    text = text.rstrip("\ufffd")
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:length]):
                text = text[:-length]
                break
    return text
