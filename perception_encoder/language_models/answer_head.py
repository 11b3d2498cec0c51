"""Answer questions from the tokens of one layer: a projector and a small language model, fitted on frozen features."""

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
from perception_encoder.language_models.decoder import Decoder, make_fresh_decoder
from perception_encoder.language_models.model import PerceptionLanguageModel, Projector, collate
from perception_encoder.language_models.reading import TorchReader, generate_tokens
from perception_encoder.models.initialization import torch_generator
from perception_encoder.models.precision import fast_autocast
from perception_encoder.preprocess.conversation import Message, Sampling
from perception_encoder.progress import Track, untracked

TURNS = 8
"""Maximum number of questions about an image per training step, redrawn each step."""
AT_ONCE = 64
"""Number of questions per batch of answers."""

QuestionAnswer = tuple[str, str]
"""A question and its answer."""
_IMAGE = Image.new("L", (1, 1))
"""Placeholder for the image in a conversation."""


@dataclass(frozen=True, kw_only=True)
class AnswerHeadConfig:
    """How a head is built and fitted."""

    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=8, batch=32))
    pool: int = 1
    """Side of the square of tokens averaged into one after the projector."""
    linear: bool = False
    """A linear projector."""
    frozen: bool = False
    """Fit only the projector and freeze the language model."""


class AnswerHead(nn.Module):
    """A projector and a language model that reads a layer's patches, standardised over the training images."""

    def __init__(self, width: int, grid: tuple[int, int], decoder: Decoder, config: AnswerHeadConfig) -> None:
        """`width`: channels of the tokens; `grid`: rows and columns of patches. The head trains its decoder."""
        super().__init__()
        self.grid, self.decoder, self.config = grid, decoder, config
        self.standardize = Standardize(width)
        projector = Projector(width, decoder.dim, config.pool, config.linear)
        projector.initialize(torch_generator(config.fit.seed, 4))
        tower: Any = nn.Identity()  # the tokens are given
        self.model = PerceptionLanguageModel(tower, projector, decoder.model)
        decoder.model.requires_grad_(not config.frozen)

    def image_tokens(self, patches: Float[Tensor, "B h w D"]) -> Float[Tensor, "B M dim"]:
        """Return the language model's tokens for images."""
        standard = self.standardize(patches).flatten(2).transpose(1, 2)  # (B, h·w, D)
        return self.model.projector(standard, self.grid)

    def fit(self, patches: Maps, questions: Sequence[Sequence[QuestionAnswer]], track: Track = untracked) -> None:
        """Fit on images (n, h, w, D) with the questions about each; ModelError if training diverges."""
        self.standardize.measure(patches)
        draws = np.random.default_rng([self.config.fit.seed, 5])
        count = self.model.projector.tokens_of(self.grid)

        def loss(rows: np.ndarray) -> Tensor:
            tokens = self.image_tokens(take(patches, rows))
            examples = []
            for row in rows:
                turns = questions[row]
                drawn = [turns[at] for at in draws.permutation(len(turns))[:TURNS]]
                prompt = self.decoder.prompts.independent_questions(_messages(drawn), [count])  # asked singly in tests
                examples.append((prompt, tokens[:0]))
            batch = collate(examples, 0)
            embeddings = self.model.embed(batch.ids, batch.is_image, tokens.flatten(0, 1))
            return self.model.token_losses(embeddings, batch.labels, batch.parts)[0].mean()

        fit_head(self, loss, len(patches), self.config.fit, "fitting an answer head", track)

    @torch.no_grad()
    def answer(self, patches: Maps, questions: Sequence[tuple[int, str]], max_tokens: int) -> list[str]:
        """Answer questions about the images of rows greedily."""
        answers: list[str] = []
        count, sampling = self.model.projector.tokens_of(self.grid), Sampling(max_tokens=max_tokens)
        reader, decoder = TorchReader(self.decoder.model), self.decoder
        for start in range(0, len(questions), AT_ONCE):
            part = questions[start : start + AT_ONCE]
            with fast_autocast(torch.device("cpu")):
                inputs = []
                images = self.image_tokens(take(patches, np.array([row for row, _ in part])))
                for (_, text), tokens in zip(part, images, strict=True):
                    prompt = decoder.prompts.generation_prompt(_messages([(text, "")]), [count], 0)
                    ids, is_image = torch.tensor([prompt.ids]), torch.tensor([prompt.is_image])
                    inputs.append(self.model.embed(ids, is_image, tokens)[0])
                steps = zip(*generate_tokens(reader, inputs, decoder.end_tokens, sampling), strict=True)
                rows = [[token for token in row if token is not None] for row in steps] or [[] for _ in part]
                answers += decoder.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return answers


def fit_answers(
    patches: Maps,
    questions: Sequence[Sequence[QuestionAnswer]],
    config: AnswerHeadConfig,
    decoder: Decoder | None = None,
    track: Track = untracked,
) -> AnswerHead:
    """Return a head fitted on images (n, h, w, D); by default with a fresh language model of the questions' words."""
    if decoder is None:
        texts = [text for turns in questions for turn in turns for text in turn]
        decoder = make_fresh_decoder(texts, torch_generator(config.fit.seed, 3))
    _, h, w, width = patches.shape
    head = AnswerHead(width, (h, w), decoder, config)
    head.fit(patches, questions, track)
    return head


def _messages(turns: Sequence[QuestionAnswer]) -> list[Message]:
    """Return a conversation about one image, without empty answers."""
    messages = [Message("user", (_IMAGE, turns[0][0]))]
    for number, (question, answer) in enumerate(turns):
        messages += [Message("user", (question,))] if number else []
        messages += [Message("assistant", (answer,))] if answer else []
    return messages
