"""Answer questions about images and videos: a perception language model with its transforms, prompts and streaming."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from functools import cached_property
from weakref import ReferenceType, ref

import numpy as np
import torch
from torch import Tensor

from perception_encoder.language_alignment.media import MediaConfig, media_pixels
from perception_encoder.language_alignment.model import PerceptionLanguageModel
from perception_encoder.language_alignment.text.decoder import Decoder
from perception_encoder.language_alignment.text.fast_llama import FastLlama
from perception_encoder.language_alignment.text.generation import generate_tokens, next_token_logits
from perception_encoder.preprocess.conversation import MediaPart, Message, Reply, Sampling

CACHED_MEDIA = 32
"""Images and videos whose tokens stay in memory while they exist, so that a conversation encodes each once."""
ENCODED_AT_ONCE = 8
"""Images and tiles that the vision tower encodes at once."""
GENERATED_AT_ONCE = 8
"""Conversations that are answered at once."""


class LanguageModel:
    """A `Generator`: a perception language model on one device.

    Attributes: `model` (the torch module), `decoder` (tokenizer and prompts), `name`, `media`, `encoded` (how many
    images, tiles and frames have gone through the vision tower).
    """

    def __init__(self, name: str, model: PerceptionLanguageModel, decoder: Decoder, media: MediaConfig) -> None:
        self.name, self.model, self.decoder, self.media = name, model.eval(), decoder, media
        self.encoded = 0
        self._tokens: OrderedDict[tuple[int, bool], tuple[ReferenceType[MediaPart], Tensor]] = OrderedDict()

    def generate(self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None) -> list[Reply]:
        """Return an answer to each conversation, greedily by default; ContextLengthError for one that does not fit."""
        sampling, answers = sampling or Sampling(), list[Reply]()
        for start in range(0, len(conversations), GENERATED_AT_ONCE):
            answers += self._answer(conversations[start : start + GENERATED_AT_ONCE], sampling)
        return answers

    def stream(self, conversation: Sequence[Message], sampling: Sampling | None = None) -> Generator[str, None, Reply]:
        """Yield the answer to one conversation piece by piece, whole characters at a time, and return all of it."""
        sampling = sampling or Sampling()
        prompt, cut = self._prompt(conversation, sampling)
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

    @torch.inference_mode()
    def yes_probabilities(self, conversations: Sequence[Sequence[Message]]) -> np.ndarray:
        """Return how probable "yes" is as the beginning of each answer, against "no": (B,) float64.

        The probabilities of the words' first tokens are added up over capitals and a space before them; other answers
        are ignored.
        """
        encode = self.decoder.tokenizer.encode
        forms = [(word, f" {word}", word.title(), f" {word.title()}") for word in ("yes", "no")]
        words = [sorted({encode(form, add_special_tokens=False)[0] for form in each}) for each in forms]
        both = set(words[0]) & set(words[1])  # such as a space that is a token of its own
        yes, no = ([token for token in each if token not in both] for each in words)
        prompts = [self._prompt(conversation, Sampling(max_tokens=1))[0] for conversation in conversations]
        logits = (each.double() for each in next_token_logits(self.model.decoder, prompts))
        shares = [float(torch.sigmoid(each[yes].logsumexp(0) - each[no].logsumexp(0))) for each in logits]
        return np.array(shares)

    def _answer(self, conversations: Sequence[Sequence[Message]], sampling: Sampling) -> list[Reply]:
        prompts, cuts = zip(*(self._prompt(each, sampling) for each in conversations), strict=True)
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

    @cached_property
    def _fast(self) -> FastLlama | None:
        """Made for the first single answer: it packs the weights."""
        return FastLlama(self.model.decoder) if FastLlama.fits(self.model.decoder) else None

    def _generate(self, prompts: Sequence[Tensor], sampling: Sampling) -> Iterator[list[int | None]]:
        fast = self._fast if len(prompts) == 1 else None
        return generate_tokens(self.model.decoder, prompts, self.decoder.end_tokens, sampling, fast)

    def _text(self, tokens: list[int], sampling: Sampling) -> tuple[str, bool]:
        """The text of an answer's tokens up to a stop, and whether there is one."""
        text = self.decoder.tokenizer.decode(tokens, skip_special_tokens=True)
        ends = [at for stop in sampling.stop if (at := text.find(stop)) >= 0]
        return (text[: min(ends)], True) if ends else (text, False)

    @torch.inference_mode()
    def _prompt(self, conversation: Sequence[Message], sampling: Sampling) -> tuple[Tensor, int]:
        """The decoder's input (T, dim) for a conversation, and how many text tokens were cut."""
        media = [item for message in conversation for item in message.media]
        tokens = [self.media_tokens(item, self.media.tile_each or len(media) == 1) for item in media]
        room, lengths = sampling.max_tokens, [len(each) for each in tokens]
        prompt = self.decoder.prompts.generation_prompt(conversation, lengths, room, sampling.cut)
        ids, is_image = torch.tensor(prompt.ids)[None], torch.tensor(prompt.is_image)[None]
        dim = self.model.projector.dim
        together = torch.cat(tokens) if tokens else torch.zeros(0, dim)
        device = next(self.model.parameters()).device
        embeddings = self.model.embed(ids.to(device), is_image.to(device), together.to(device))
        return embeddings[0], prompt.cut

    @torch.inference_mode()
    def media_tokens(self, item: MediaPart, alone: bool = True) -> Tensor:
        """Tokens (M, dim) of an image or a video, from memory if it was encoded before.

        An image that is `alone` in its conversation is tiled; of several, each is squashed to one square, as in PLM.
        """
        key = (id(item), alone)
        if key in self._tokens and self._tokens[key][0]() is item:
            self._tokens.move_to_end(key)
            return self._tokens[key][1]
        pixels = media_pixels(item, self.media, alone)
        parameter = next(self.model.vision.parameters())
        grid = self.model.vision.grid_of(pixels.shape[-2], pixels.shape[-1])
        batches = pixels.split(ENCODED_AT_ONCE)
        features = [self.model.image_features(batch.to(parameter.device, parameter.dtype)) for batch in batches]
        projected = [self.model.project(each, grid) for each in features]
        self.encoded += len(pixels)
        tokens = torch.cat(projected).flatten(0, 1)
        self._tokens[key] = (ref(item, lambda _: self._tokens.pop(key, None)), tokens)
        while len(self._tokens) > CACHED_MEDIA:
            self._tokens.popitem(last=False)
        return tokens


def _without_partial(text: str, stops: Sequence[str]) -> str:
    """The text without what may still change: half a character, or the beginning of a stop."""
    text = text.rstrip("\ufffd")
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:length]):
                text = text[:-length]
                break
    return text
