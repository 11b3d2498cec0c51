"""Language models that answer about texts, images and videos: whole or streamed, one at a time or in batches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from weakref import ReferenceType, ref

import numpy as np
import torch
from torch import Tensor, nn

from perception_encoder.conversation.assistant import Assistant
from perception_encoder.errors import ConfigError
from perception_encoder.language_models.decoder import Decoder
from perception_encoder.language_models.model import PerceptionLanguageModel
from perception_encoder.language_models.reading import PromptReader, TorchReader, generate_tokens, require_finite
from perception_encoder.models.checkpoints.weights import state_hash
from perception_encoder.preprocess.conversation import MediaPart, Message, Reply, Sampling
from perception_encoder.preprocess.tiling import MediaConfig, media_pixels
from perception_encoder.transfer import to_device

AT_ONCE = 8
"""Maximum number of conversations in a batch of the language model, and of images and tiles in one of the tower."""
CACHED_MEDIA = 32
"""Maximum number of images and videos with cached tokens, so that a chat encodes each one once."""


@dataclass
class _Answer:
    """An answer that grows."""

    prompt_tokens: int
    cut: int
    tokens: list[int] = field(default_factory=list)
    ended: bool = False


class TextModel(Assistant):
    """A language model for conversations without images and videos.

    Attributes: `name`, `decoder` (the torch module, tokenizer and prompts), `reader` (executes it; by default torch).
    """

    def __init__(self, name: str, decoder: Decoder, reader: PromptReader | None = None) -> None:
        self.name, self.decoder, self.reader = name, decoder, reader or TorchReader(decoder.model)
        self._whole: nn.Module = decoder.model  # whose weights are hashed

    def describe(self) -> dict[str, Any]:
        """Return the name, the hash of the weights, and "int8" if that is their precision."""
        precision = {"precision": "int8"} if self.reader.precision == "int8" else {}
        return {"name": self.name, "weights": state_hash(self._whole.state_dict()), **precision}

    def generate(self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None) -> list[Reply]:
        """Return an answer to each conversation, greedily by default; ContextLengthError for one that does not fit."""
        sampling, replies = sampling or Sampling(), list[Reply]()
        for start in range(0, len(conversations), AT_ONCE):
            *_, answers = self._growing(conversations[start : start + AT_ONCE], sampling)
            replies += [self._reply(answer, sampling) for answer in answers]
        return replies

    def generate_stream(
        self, conversation: Sequence[Message], sampling: Sampling | None = None
    ) -> Generator[str, None, Reply]:
        """Yield the answer to one conversation piece by piece, in whole characters, and return all of it."""
        sampling, streamed = sampling or Sampling(), ""
        for (answer,) in self._growing([conversation], sampling):
            text, _ = self._text(answer.tokens, sampling)
            stable = text if answer.ended else _without_partial(text, sampling.stop)
            if len(stable) > len(streamed):
                yield stable[len(streamed) :]
                streamed = stable
        reply = self._reply(answer, sampling)
        if len(reply.text) > len(streamed):
            yield reply.text[len(streamed) :]
        return reply

    def _growing(self, conversations: Sequence[Sequence[Message]], sampling: Sampling) -> Iterator[list[_Answer]]:
        """Yield the answers, empty at first, after each token; they are complete at the end."""
        prompts, cuts = zip(*(self._prompt(conversation, sampling) for conversation in conversations), strict=True)
        answers = [_Answer(len(prompt), cut) for prompt, cut in zip(prompts, cuts, strict=True)]
        room = self.decoder.prompts.context - max(len(prompt) for prompt in prompts)  # see `Sampling.cut`
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, room))
        yield answers
        for row in generate_tokens(self.reader, prompts, self.decoder.end_tokens, sampling):
            for answer, token in zip(answers, row, strict=True):
                if token is None:
                    answer.ended = True
                elif not answer.ended:
                    answer.tokens.append(token)
                    answer.ended = bool(sampling.stop) and self._text(answer.tokens, sampling)[1]
            yield answers
            if all(answer.ended for answer in answers):
                break
        for answer in answers:
            answer.ended |= len(answer.tokens) < sampling.max_tokens

    def _reply(self, answer: _Answer, sampling: Sampling) -> Reply:
        text, _ = self._text(answer.tokens, sampling)
        return Reply(text, answer.prompt_tokens, len(answer.tokens), answer.ended, answer.cut)

    def _text(self, tokens: list[int], sampling: Sampling) -> tuple[str, bool]:
        return sampling.until_stop(self.decoder.tokenizer.decode(tokens, skip_special_tokens=True))

    @torch.inference_mode()
    def _prompt(self, conversation: Sequence[Message], sampling: Sampling) -> tuple[Tensor, int]:
        """Return the decoder's input (T, dim) for a conversation, and the number of text tokens cut."""
        if any(message.media for message in conversation):
            raise ConfigError(f"{self.name} reads only text; images and videos need a vision-language model")
        prompt = self.decoder.prompts.generation_prompt(conversation, [], sampling.max_tokens, sampling.cut)
        embed = self.decoder.model.get_input_embeddings()  # type: ignore[operator]
        return embed(to_device(torch.tensor(prompt.ids), embed.weight.device)), prompt.cut


def _without_partial(text: str, stops: Sequence[str]) -> str:
    """Return the text without an end that may still change: part of a character or of a stop."""
    text = text.rstrip("\ufffd")
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:length]):
                text = text[:-length]
                break
    return text


class LanguageModel(TextModel):
    """A perception language model on one device; `encoded` counts the images, tiles and frames that it encoded."""

    def __init__(
        self,
        name: str,
        model: PerceptionLanguageModel,
        decoder: Decoder,
        media: MediaConfig,
        reader: PromptReader | None = None,
    ) -> None:
        super().__init__(name, decoder, reader)
        self.model, self.media = model.eval(), media
        self._whole = model
        self.tile, self.tiles = media.image_size, media.tiles
        self.encoded = 0
        self._tokens: OrderedDict[tuple[int, bool], tuple[ReferenceType[MediaPart], Tensor]] = OrderedDict()

    def describe(self) -> dict[str, Any]:
        """Return what it does for texts, and the settings of media."""
        return {**super().describe(), "media": asdict(self.media)}

    @torch.inference_mode()
    def yes_probabilities(self, conversations: Sequence[Sequence[Message]]) -> np.ndarray:
        """Return the probability that each answer begins with "yes" rather than "no": (B,) float64.

        Sums the probabilities of the first tokens of both words, capitalised or not, with or without a space before
        them; other answers are ignored. Raises ModelError for logits that are NaN or infinite.
        """
        encode = self.decoder.tokenizer.encode
        forms = [(word, f" {word}", word.title(), f" {word.title()}") for word in ("yes", "no")]
        tokens = [sorted({encode(form, add_special_tokens=False)[0] for form in words}) for words in forms]
        both = set(tokens[0]) & set(tokens[1])  # for example a lone space
        yes, no = ([token for token in ids if token not in both] for ids in tokens)
        prompts = [self._prompt(conversation, Sampling(max_tokens=1))[0] for conversation in conversations]
        probabilities = []
        for logits in self.reader.read_each(prompts):
            require_finite(bool(logits.isfinite().all()), self.reader)
            logits = logits.double()
            probabilities.append(float(torch.sigmoid(logits[yes].logsumexp(0) - logits[no].logsumexp(0))))
        return np.array(probabilities)

    @torch.inference_mode()
    def _prompt(self, conversation: Sequence[Message], sampling: Sampling) -> tuple[Tensor, int]:
        media = [item for message in conversation for item in message.media]
        tokens = [self.media_tokens(item, len(media) == 1) for item in media]
        room, lengths = sampling.max_tokens, [len(item) for item in tokens]
        prompt = self.decoder.prompts.generation_prompt(conversation, lengths, room, sampling.cut)
        device = next(self.model.parameters()).device
        ids, is_image = torch.tensor([prompt.ids]), torch.tensor([prompt.is_image])
        together = torch.cat([torch.zeros(0, self.model.projector.dim, device=device), *tokens])
        return self.model.embed(ids, is_image, together)[0], prompt.cut

    @torch.inference_mode()
    def media_tokens(self, item: MediaPart, alone: bool = True) -> Tensor:
        """Return the tokens (M, dim), maybe cached, of a video or an image, which is tiled if it is `alone`."""
        key = (id(item), alone)
        if key in self._tokens and self._tokens[key][0]() is item:
            self._tokens.move_to_end(key)
            return self._tokens[key][1]
        pixels = media_pixels(item, self.media, alone)
        parameter = next(self.model.vision.parameters())
        batches = to_device(pixels, parameter.device).to(parameter.dtype).split(AT_ONCE)
        tokens = torch.cat([self.model.image_tokens(batch) for batch in batches]).flatten(0, 1)
        self.encoded += len(pixels)
        self._tokens[key] = (ref(item, lambda _: self._tokens.pop(key, None)), tokens)
        while len(self._tokens) > CACHED_MEDIA:
            self._tokens.popitem(last=False)
        return tokens
