"""Evaluate layers on questions: fit a small language model to each layer's tokens and let it answer (section 3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from perception_encoder.data.conversation_records import box_text
from perception_encoder.datasets.questions.question import Question
from perception_encoder.datasets.questions.read import default_split, read_questions
from perception_encoder.dense_prediction.head_fitting import FitConfig, Maps, Standardize, fit_head, take
from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.feature_cache import CachedTokens
from perception_encoder.evaluation.inputs import EncoderInputs, content_digest, settings_digest
from perception_encoder.evaluation.language.answers import scale_box
from perception_encoder.evaluation.language.evaluators import Answered, open_media_of, score_answers
from perception_encoder.evaluation.language.tasks import TASKS, LanguageTask
from perception_encoder.evaluation.layer_evaluator import LayerSource
from perception_encoder.evaluation.statistics.scores import (
    HEAD_SEEDS,
    Label,
    Score,
    Scores,
    measure_all,
    with_head_seeds,
)
from perception_encoder.language_alignment.task import collate
from perception_encoder.language_models.decoder import Decoder, make_fresh_decoder
from perception_encoder.language_models.model import PerceptionLanguageModel, Projector
from perception_encoder.language_models.reading import TorchReader, generate_tokens
from perception_encoder.models.initialization import torch_generator
from perception_encoder.models.precision import fast_autocast
from perception_encoder.preprocess.conversation import Message, Sampling
from perception_encoder.preprocess.frames import spread_indices
from perception_encoder.progress import Track, untracked

QUESTION_TASKS = tuple(name for name in TASKS if name != "mvbench")
"""Tasks with questions about one image, named as in `read_questions`."""

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


def _messages(turns: Sequence[QuestionAnswer]) -> list[Message]:
    """Return a conversation about one image, without empty answers."""
    messages = [Message("user", (_IMAGE, turns[0][0]))]
    for number, (question, answer) in enumerate(turns):
        messages += [Message("user", (question,))] if number else []
        messages += [Message("assistant", (answer,))] if answer else []
    return messages


@dataclass(frozen=True, kw_only=True)
class QuestionTaskConfig:
    """How layers are evaluated on questions."""

    items: int = 1000
    """Maximum number of test images."""
    train_items: int | None = None
    """Maximum number of training images; by default twice as many."""
    head: AnswerHeadConfig = field(default_factory=AnswerHeadConfig)
    seeds: int = HEAD_SEEDS
    """Seeds for a head and its language model."""


class QuestionTask:
    """Answers to a dataset's questions from a head fitted on the tokens of a layer."""

    def __init__(
        self,
        task: LanguageTask,
        train: Sequence[Question],
        test: Sequence[Question],
        config: QuestionTaskConfig | None = None,
        image_size: tuple[int, int] | None = None,
        make_decoder: Callable[[int], Decoder] | None = None,
    ) -> None:
        """`image_size`: height and width to resize images to.

        `make_decoder`: the language model of a head, by its seed; by default a fresh one whose vocabulary is that of
        the training questions. Raises DataError for a part without a question.
        """
        self.task, self.config = task, config or QuestionTaskConfig()
        self.train = _by_image(f"{task.name}, train", train, self.config.train_items or 2 * self.config.items)
        self.test = _by_image(f"{task.name}, test", test, self.config.items)
        self.inputs = [
            EncoderInputs(
                name=f"{task.name}, {part}",
                keys=tuple(questions[0].block or questions[0].id for questions in images),
                open=partial(_open_row, images),
                compute_digest=partial(content_digest, [source for rows in images for source in rows[0].media]),
                image_size=image_size,
            )
            for part, images in (("train", self.train), ("test", self.test))
        ]
        self._make_decoder = make_decoder or self._fresh

    def run(self, source: LayerSource, track: Track = untracked) -> Iterator[Score]:
        """Yield the task's scores over the head seeds; DataError if no image of a part can be decoded."""
        yield from source.score(self.inputs, self.digest, partial(self._scores, track=track), track)

    @property
    def digest(self) -> str:
        """Digest of the questions and the settings."""
        asked = [
            [[(q.id, q.question, q.answers, q.correct, q.box) for q in questions] for questions in part]
            for part in (self.train, self.test)
        ]
        return settings_digest(asdict(self.config), self.task.name, asked)

    def _scores(self, features: Iterable[CachedTokens], track: Track) -> Iterator[Score]:
        train, test = features
        for part in (train, test):
            if not len(part.rows):
                raise DataError(f"{self.task.name}: no image can be decoded; the first failure: {part.failures[0]}")
        items = with_head_seeds(self.config.seeds, partial(self._score, train, test, track))
        yield from measure_all(items, Label(task=self.task.name, method="answers"))

    def _score(self, train: CachedTokens, test: CachedTokens, track: Track, seed: int) -> tuple[Scores, ...]:
        config, task = self.config.head, self.task
        config = replace(config, fit=config.fit.with_seed(seed))
        head = AnswerHead(train.tokens.shape[-1], train.grid, self._make_decoder(config.fit.seed), config)
        head.fit(train.patches, [self._training[row] for row in train.rows], track)
        rows = [(at, question) for at, row in enumerate(test.rows) for question in self.test[row]]
        prompts = [(at, task.prompt(question)) for at, question in rows]
        predictions = head.answer(test.patches, prompts, task.max_tokens)
        answered = []
        for (at, question), prediction in zip(rows, predictions, strict=True):
            box = None if question.box is None else scale_box(question.box, *self._sizes[int(test.rows[at])])
            answered.append(Answered(question, prediction, box))
        return score_answers(task, answered)

    @cached_property
    def _sizes(self) -> dict[int, tuple[int, int]]:
        """Return width and height of the test images with boxes."""
        boxed = (row for row, questions in enumerate(self.test) if any(question.box for question in questions))
        return {row: _open(self.test[row][0]).size for row in boxed}

    @cached_property
    def _training(self) -> list[list[QuestionAnswer]]:
        """Return prompts and correct answers by image: a text, a choice's letter, or a box."""

        def answer(question: Question) -> str:
            if question.box is not None:
                return box_text(question.box, *_open(question).size)
            if question.correct is not None:
                return chr(ord("A") + question.correct)
            return max(question.answers, key=question.answers.count)

        return [[(self.task.prompt(question), answer(question)) for question in questions] for questions in self.train]

    def _fresh(self, seed: int) -> Decoder:
        texts = [text for turns in self._training for turn in turns for text in turn]
        return make_fresh_decoder(texts, torch_generator(seed, 3))


def _open(question: Question) -> Image.Image:
    """Open a question's image; InputError if it cannot be decoded, or the question is not about a single image."""
    media = open_media_of(question)
    if len(media) != 1 or not isinstance(media[0], Image.Image):
        raise InputError(f"question {question.id}", "is not about one image")
    return media[0].convert("RGB")


def _open_row(images: Sequence[Sequence[Question]], row: int) -> list[Image.Image]:
    return [_open(images[row][0])]


def _by_image(name: str, questions: Sequence[Question], maximum: int) -> list[list[Question]]:
    """Group questions by image; above the maximum, take evenly spaced images."""
    groups: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        groups[question.block or question.id].append(question)
    if not groups:
        raise DataError(f"{name} has no question")
    images = list(groups.values())
    return [images[int(row)] for row in spread_indices(len(images), min(len(images), maximum))]


def read_question_task(name: str, path: Path, items: int, image_size: tuple[int, int] | None = None) -> QuestionTask:
    """Read a task of `QUESTION_TASKS`: train on its split `train`, test on the split that papers report."""
    train, test = (read_questions(name, path, split) for split in ("train", default_split(name)))
    return QuestionTask(TASKS[name], train, test, QuestionTaskConfig(items=items), image_size)
