"""Answer with a decoder-only language model: whole or streamed, one at a time or in batches."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from perception_encoder.errors import ConfigError, ModelError
from perception_encoder.inference.conversation.assistant import Assistant
from perception_encoder.language_alignment.text.decoder import Decoder
from perception_encoder.language_alignment.text.reading import Reader, TorchReader
from perception_encoder.preprocess.conversation import Message, Reply, Sampling

GENERATED_AT_ONCE = 8
"""Maximum number of conversations per batch."""


class TextModel(Assistant):
    """A language model for conversations without images and videos.

    Attributes: `name`, `decoder` (the torch module, tokenizer and prompts), `reader` (what executes it).
    """

    reader: Reader

    def __init__(self, name: str, decoder: Decoder) -> None:
        self.name, self.decoder, self.reader = name, decoder, TorchReader(decoder.model)

    def generate(self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None) -> list[Reply]:
        """Return an answer to each conversation, greedily by default; ContextLengthError for one that does not fit."""
        sampling, answers = sampling or Sampling(), list[Reply]()
        for start in range(0, len(conversations), GENERATED_AT_ONCE):
            answers += self._answer(conversations[start : start + GENERATED_AT_ONCE], sampling)
        return answers

    def generate_stream(
        self, conversation: Sequence[Message], sampling: Sampling | None = None
    ) -> Generator[str, None, Reply]:
        """Yield the answer to one conversation piece by piece, in whole characters, and return all of it."""
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
        prompts, cuts = zip(*(self._prompt(conversation, sampling) for conversation in conversations), strict=True)
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
            Reply(self._text(ids, sampling)[0], len(prompt), len(ids), end or len(ids) < sampling.max_tokens, cut)
            for ids, prompt, cut, end in zip(tokens, prompts, cuts, ended, strict=True)
        ]

    def _within_context(self, sampling: Sampling, *prompts: Tensor) -> Sampling:
        """Limit the length of answers to the space left in the context: see `Sampling.cut`."""
        room = self.decoder.prompts.context - max(len(prompt) for prompt in prompts)
        return replace(sampling, max_tokens=min(sampling.max_tokens, room))

    def _generate(self, prompts: Sequence[Tensor], sampling: Sampling) -> Iterator[list[int | None]]:
        return generate_tokens(self.reader, prompts, self.decoder.end_tokens, sampling)

    def _text(self, tokens: list[int], sampling: Sampling) -> tuple[str, bool]:
        """Return the text of an answer up to a stop, and whether there is a stop."""
        text = self.decoder.tokenizer.decode(tokens, skip_special_tokens=True)
        ends = [at for stop in sampling.stop if (at := text.find(stop)) >= 0]
        return (text[: min(ends)], True) if ends else (text, False)

    @torch.inference_mode()
    def _prompt(self, conversation: Sequence[Message], sampling: Sampling) -> tuple[Tensor, int]:
        """Return the decoder's input (T, dim) for a conversation, and the number of text tokens cut."""
        if any(message.media for message in conversation):
            raise ConfigError(f"{self.name} reads only text; images and videos need a vision-language model")
        prompt = self.decoder.prompts.generation_prompt(conversation, [], sampling.max_tokens, sampling.cut)
        embed = self.decoder.model.get_input_embeddings()  # type: ignore[operator]
        return embed(torch.tensor(prompt.ids, device=embed.weight.device)), prompt.cut


def _without_partial(text: str, stops: Sequence[str]) -> str:
    """Return the text without an end that may still change: part of a character or of a stop."""
    text = text.rstrip("\ufffd")
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:length]):
                text = text[:-length]
                break
    return text


_COLDEST = 1e-5
"""Lower temperatures act like 0 (the most probable token), as dividing logits by them overflows."""


@torch.inference_mode()
def generate_tokens(
    reader: Reader, prompts: Sequence[Tensor], end_tokens: frozenset[int], sampling: Sampling
) -> Iterator[list[int | None]]:
    """Yield the next token of each prompt until all have ended, None after an end; end tokens are not yielded.

    `prompts`: embeddings (T, dim) of each. Each has its own random generator, so that answers do not depend on the
    batch. Raises ModelError for logits that are NaN or infinite.
    """
    logits, step = reader.read(prompts, sampling.max_tokens)
    generators = [torch.Generator().manual_seed(sampling.seed) for _ in prompts]
    open_rows, given = [True] * len(prompts), [list[int]() for _ in prompts]
    for number in range(sampling.max_tokens):
        check_logits(logits, reader)
        rows = zip(logits, generators, given, strict=True)
        tokens = [choose(row, sampling, generator, earlier) for row, generator, earlier in rows]
        for token, earlier in zip(tokens, given, strict=True):
            earlier.append(token)
        open_rows = [is_open and token not in end_tokens for is_open, token in zip(open_rows, tokens, strict=True)]
        if not any(open_rows):
            return
        yield [token if is_open else None for token, is_open in zip(tokens, open_rows, strict=True)]
        if number + 1 < sampling.max_tokens:
            logits = step(tokens)


def check_logits(logits: Float[Tensor, "*B V"], reader: Reader) -> None:
    """Raise ModelError if logits are NaN or infinite."""
    if not logits.isfinite().all():
        raise ModelError(
            f"the language model gives NaN or infinity in {reader.precision}; its weights are bad or need float32"
        )


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator, given: Sequence[int] = ()) -> int:
    """Choose a token by its logits (V): the most probable, or one sampled at the temperature from the top ones.

    `given`: the answer's earlier tokens, for the penalties.
    """
    if given and (sampling.presence_penalty or sampling.frequency_penalty):
        tokens, counts = torch.tensor(given, device=logits.device).unique(return_counts=True)
        logits = logits.float().index_add(0, tokens, counts * -sampling.frequency_penalty - sampling.presence_penalty)
    if sampling.temperature < _COLDEST:
        return int(logits.argmax())
    probabilities = (logits.float().cpu() / sampling.temperature).softmax(0)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        ordered[ordered.cumsum(0) - ordered >= sampling.top_p] = 0
        return int(order[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(probabilities, 1, generator=generator))
