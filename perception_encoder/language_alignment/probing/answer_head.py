"""Fit a projector and a small language model on the tokens of frozen images, and answer questions by them.

What a layer is worth to a language model (section 3 and figure 13): the head is fitted anew for each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from perception_encoder.dense_prediction.head_fitting import FitConfig, Maps, Standardize, fit_head, take
from perception_encoder.language_alignment.batch import Example, collate
from perception_encoder.language_alignment.model import PerceptionLanguageModel
from perception_encoder.language_alignment.projector import Projector
from perception_encoder.language_alignment.text.decoder import Decoder
from perception_encoder.language_alignment.text.generation import generate_tokens
from perception_encoder.models.precision import fast_autocast
from perception_encoder.preprocess.conversation import Message, Sampling
from perception_encoder.progress import Track, untracked
from perception_encoder.training.seed import torch_generator

TURNS = 8
"""Most questions about an image that it is shown with at a time, drawn anew each time."""
AT_ONCE = 64
"""Questions that are answered at a time."""

QuestionAnswer = tuple[str, str]
"""A question and its answer."""
_IMAGE = Image.new("L", (1, 1))
"""Stands for the image in a conversation."""


@dataclass(frozen=True, kw_only=True)
class AnswerHeadConfig:
    """How a head is made and fitted."""

    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=8, batch=32))
    pool: int = 1
    """Tokens along a side that are averaged into one, after the projector."""
    linear: bool = False
    """A linear projector."""
    frozen: bool = False
    """Fit the projector alone, and leave the language model as it is."""


class AnswerHead(nn.Module):
    """A projector and a language model that reads a layer's patches, standardised over the images it is fitted on."""

    def __init__(self, width: int, grid: tuple[int, int], decoder: Decoder, config: AnswerHeadConfig) -> None:
        """`width`: channels of the tokens; `grid`: rows and columns of the patches. The decoder is the head's own."""
        super().__init__()
        self.grid, self.decoder, self.config = grid, decoder, config
        self.standardize = Standardize(width)
        projector = Projector(width, decoder.dim, config.pool, config.linear)
        projector.initialize(torch_generator(config.fit.seed, 4))
        tower: Any = nn.Identity()  # the tokens are given
        self.model = PerceptionLanguageModel(tower, projector, decoder.model)
        decoder.model.requires_grad_(not config.frozen)

    def image_tokens(self, patches: Float[Tensor, "B h w D"]) -> Float[Tensor, "B M dim"]:
        """Tokens of images for the language model."""
        standard = self.standardize(patches).flatten(2).transpose(1, 2)  # (B, h·w, D)
        return self.model.project(standard, self.grid)

    def fit(self, patches: Maps, questions: Sequence[Sequence[QuestionAnswer]], track: Track = untracked) -> None:
        """Fit on images (n, h, w, D), each with its questions; ModelError if it diverges."""
        self.standardize.measure(patches)
        draws = np.random.default_rng([self.config.fit.seed, 5])
        count = self.model.projector.tokens_of(self.grid)

        def loss(rows: np.ndarray) -> Tensor:
            tokens = self.image_tokens(take(patches, rows))
            examples = []
            for row in rows:
                turns = questions[row]
                drawn = [turns[at] for at in draws.permutation(len(turns))[:TURNS]]
                prompt = self.decoder.prompts.apart(_messages(drawn), [count])  # as they are put later, one by one
                examples.append(Example(prompt, tokens[:0]))
            batch = collate(examples, 0)
            embeddings = self.model.embed(batch.ids, batch.is_image, tokens.flatten(0, 1))
            return self.model.token_losses(embeddings, batch.labels, batch.parts).mean()

        fit_head(self, loss, len(patches), self.config.fit, "fitting an answer head", track)

    @torch.no_grad()
    def answer(self, patches: Maps, questions: Sequence[tuple[int, str]], max_tokens: int) -> list[str]:
        """Answer questions, each about the image of a row, greedily."""
        answers: list[str] = []
        count = self.model.projector.tokens_of(self.grid)
        for start in range(0, len(questions), AT_ONCE):
            part = questions[start : start + AT_ONCE]
            with fast_autocast(torch.device("cpu")):
                tokens = self.image_tokens(take(patches, np.array([row for row, _ in part])))
                prompts = [self._prompt(text, own, count) for (_, text), own in zip(part, tokens, strict=True)]
                answers += self._generate(prompts, Sampling(max_tokens=max_tokens))
        return answers

    def _prompt(self, question: str, tokens: Tensor, count: int) -> Tensor:
        prompt = self.decoder.prompts.generation_prompt(_messages([(question, "")]), [count], 0)
        ids, is_image = torch.tensor(prompt.ids)[None], torch.tensor(prompt.is_image)[None]
        return self.model.embed(ids, is_image, tokens)[0]

    def _generate(self, prompts: Sequence[Tensor], sampling: Sampling) -> list[str]:
        rows: list[list[int]] = [[] for _ in prompts]
        for tokens in generate_tokens(self.decoder.model, prompts, self.decoder.end_tokens, sampling):
            for own, token in zip(rows, tokens, strict=True):
                if token is not None:
                    own.append(token)
        return [self.decoder.tokenizer.decode(row, skip_special_tokens=True) for row in rows]


def _messages(turns: Sequence[QuestionAnswer]) -> list[Message]:
    """A conversation about one image; the answers are left out if they are empty."""
    messages = [Message("user", (_IMAGE, turns[0][0]))]
    for number, (question, answer) in enumerate(turns):
        messages += [Message("user", (question,))] if number else []
        messages += [Message("assistant", (answer,))] if answer else []
    return messages
