"""Evaluate a language model on a dataset of questions: ask each one once and score the answers by rules.

Answers are stored as lines of JSON, one by one, so that an interrupted evaluation resumes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from PIL import Image

from perception_encoder.conversation.assistant import Assistant, answer, digest_of
from perception_encoder.conversation.media import open_part
from perception_encoder.datasets.labelled import ImageSet
from perception_encoder.datasets.questions.question import Corners, Question
from perception_encoder.errors import ConfigError, DataError, EndpointError, InputError
from perception_encoder.evaluation.inputs import FRAMES, content_digest, decode_ahead, resolve_source, settings_digest
from perception_encoder.evaluation.language.answers import parse_yes_no, predicted_iou, scale_box, yes_no_answer
from perception_encoder.evaluation.language.captions import bleu_counts, bleu_of_counts, cider_d_scores
from perception_encoder.evaluation.language.tasks import VIDEO_TASKS, LanguageTask
from perception_encoder.evaluation.statistics.bootstrap import resample
from perception_encoder.evaluation.statistics.scores import (
    SEED,
    ItemScores,
    Label,
    ResampledScores,
    Score,
    Scores,
    measure_all,
)
from perception_encoder.preprocess.conversation import MediaPart, Sampling, ask
from perception_encoder.preprocess.frames import VideoFrames, frame_indices
from perception_encoder.progress import Track, untracked
from perception_encoder.store import row_file

AHEAD = 8
"""Number of questions whose images are decoded at a time."""


@dataclass(frozen=True, kw_only=True)
class AnswerRecord:
    """A model's answer to one question."""

    model: str
    digest: str = ""
    """Digest of the model's weights and media settings (`digest_of`): two models may share a name."""
    task: str
    """The dataset, and how questions were asked if not the default way."""
    id: str
    """The question's."""
    prompt: str
    """The full prompt."""
    media: str = ""
    """A digest of the images or the video it saw; empty if none."""
    prediction: str
    answers: tuple[str, ...] = ()
    """The correct answer, for readers: texts, or a choice's text."""
    box: Corners | None = None
    """The correct box, in thousandths of the image."""
    score: float | None = None
    """Score of this answer; None for captions, which are scored together."""


@dataclass(frozen=True)
class Answered:
    """A question and its answer."""

    question: Question
    prediction: str
    box: Corners | None = None
    """The correct box, in thousandths of the image."""


class QuestionEvaluator:
    """Evaluates a model on the questions about images or videos of one dataset."""

    def __init__(
        self,
        task: LanguageTask,
        questions: Sequence[Question],
        records: Path | None = None,
        frames: int = FRAMES,
        blind: bool = False,
    ) -> None:
        """Prepare to put questions about `frames` of a video, or about images.

        Args:
            records: A JSONL file that each answer is added to; questions that it answers are not put again.
            blind: Show no image: what the model knows without looking.
        """
        self.task, self.questions, self.records, self.frames, self.blind = task, questions, records, frames, blind
        self.label = f"{task.name}, no image" if blind else task.name

    def run(self, model: Assistant, track: Track = untracked) -> Iterator[Score]:
        """Yield the task's scores: see `Evaluator`. A question that gets no answer is a failure."""
        name, weights = self.task.name, "" if self.records is None else digest_of(model)
        same = {"model": model.name, "digest": weights, "task": self.label}
        failures: list[InputError] = []
        with nullcontext() if self.records is None else row_file(self.records, AnswerRecord, same) as stored:
            known = {} if stored is None else self._current(stored.rows)
            missing = [question for question in self.questions if question.id not in known]
            opened = decode_ahead(lambda row: open_media_of(missing[row], self.frames), range(len(missing)), AHEAD)
            for question, media in track(zip(missing, opened, strict=True), f"asking {name}", len(missing)):
                if isinstance(media, InputError):
                    failures.append(media)
                    continue
                try:
                    record = known[question.id] = self._ask(model, weights, question, media)
                except (ConfigError, EndpointError) as error:
                    if isinstance(error, EndpointError) and error.scope in ("attempt", "service"):
                        raise
                    failures.append(InputError(f"question {question.id}", str(error)))
                    continue
                if stored is not None:
                    stored.append(record)
        asked = [(question, known[question.id]) for question in self.questions if question.id in known]
        if not asked:
            first = f"; the first: {failures[0]}" if failures else ""
            raise DataError(f"{name}: no question could be asked{first}")
        answered = [Answered(question, record.prediction, record.box) for question, record in asked]
        label = Label(
            task=name,
            method="generation, no image" if self.blind else "generation",
            settings={"frames": str(self.frames)} if name in VIDEO_TASKS else {},
            failures=tuple(failures),
        )
        yield from measure_all(score_answers(self.task, answered), label)

    def _current(self, rows: Sequence[AnswerRecord]) -> dict[str, AnswerRecord]:
        """Return the answers to these questions, with the same words and the same media, the last one if repeated."""
        records = {record.id: record for record in rows}
        asked = ((question, records[question.id]) for question in self.questions if question.id in records)
        return {
            question.id: record
            for question, record in asked
            if record.prompt == self.task.prompt(question) and record.media == self._media_digest(question)
        }

    def _media_digest(self, question: Question) -> str:
        """Return a digest of a question's media as a model sees it: other datasets may share ids and questions."""
        if self.blind or self.records is None:
            return ""
        return settings_digest(content_digest(question.media), self.frames)

    def _ask(self, model: Assistant, digest: str, question: Question, media: Sequence[MediaPart]) -> AnswerRecord:
        prompt, task = self.task.prompt(question), self.task
        conversation = ask(prompt, () if self.blind else media)
        prediction = answer(model, conversation, Sampling(max_tokens=task.max_tokens)).text
        box = None
        if question.box is not None and isinstance(media[0], Image.Image):
            box = scale_box(question.box, *media[0].size)
        return AnswerRecord(
            model=model.name,
            digest=digest,
            task=self.label,
            id=question.id,
            prompt=prompt,
            media=self._media_digest(question),
            prediction=prediction,
            answers=question.answers if question.correct is None else (question.choices[question.correct],),
            box=box,
            score=None if task.score is None else task.score(prediction, question, box),
        )


def score_answers(task: LanguageTask, answered: Sequence[Answered]) -> tuple[Scores, ...]:
    """Return the metrics of answers to a task's questions: over all, then for each group of questions."""
    if task.score is None:
        return _caption_scores(answered)
    groups = sorted({answer.question.group for answer in answered})
    parts = {"": answered}
    if len(groups) > 1:
        parts |= {f", {group}": [item for item in answered if item.question.group == group] for group in groups}
    return tuple(score for suffix, part in parts.items() for score in _part_scores(task, part, suffix))


def _part_scores(task: LanguageTask, answered: Sequence[Answered], suffix: str) -> Iterator[ItemScores]:
    """Yield the metrics of questions; those about the same image are one block."""
    assert task.score is not None
    names = [answer.question.id for answer in answered]
    blocks = [answer.question.block or f"question {answer.question.id}" for answer in answered]

    def make(
        metric: str, values: np.ndarray, weights: np.ndarray | None = None, groups: np.ndarray | None = None
    ) -> ItemScores:
        return ItemScores.of(metric + suffix, values, names, weights=weights, groups=groups, blocks=blocks)

    values = np.array([task.score(answer.prediction, answer.question, answer.box) for answer in answered])
    if task.name == "mvbench" and not suffix:  # the mean over tasks, as published
        groups = np.unique([answer.question.group for answer in answered], return_inverse=True)[1]
        yield make(task.metric, values, groups=groups)
        return
    yield make(task.metric, values)
    if task.name == "pope":
        yes = np.array([parse_yes_no(answer.prediction) is True for answer in answered])
        true = np.array([yes_no_answer(answer.question.answers[0]) for answer in answered])
        yield make("precision", true, yes.astype(float))
        yield make("recall", yes, true.astype(float))
        yield make("F1", yes & true, yes.astype(float) + true)
        yield make("yes ratio", yes)
    boxed = [(answer.prediction, answer.box) for answer in answered if answer.box is not None]
    if len(boxed) == len(answered):
        yield make("mean IoU", np.array([predicted_iou(text, box) for text, box in boxed]))


def open_media_of(question: Question, frames: int = FRAMES) -> list[MediaPart]:
    """Open a question's images, RGB, or at most `frames` frames of its video; InputError has the question's id."""
    try:
        if not question.frames:
            return [open_part(resolve_source(source, question.id), frames) for source in question.media]
        count = len(question.media)
        chosen = frame_indices(count, frames) if count > frames else range(count)
        images = [open_part(resolve_source(question.media[index], question.id), frames) for index in chosen]
    except InputError as error:
        raise type(error)(f"question {question.id}", error.reason) from error
    stills = [image for image in images if isinstance(image, Image.Image)]
    nan = float("nan")
    return [VideoFrames(stills, [nan] * len(stills), nan, count, complete=True)]


@dataclass(frozen=True, kw_only=True)
class AskedImages(ImageSet):
    """Images with the questions about each."""

    _per_item: ClassVar[tuple[str, ...]] = (*ImageSet._per_item, "questions")

    questions: tuple[tuple[Question, ...], ...]

    @classmethod
    def of(cls, name: str, questions: Sequence[Question]) -> Self:
        """Group questions by image; DataError if there are none."""
        groups: dict[str, list[Question]] = {}
        for question in questions:
            groups.setdefault(question.block or question.id, []).append(question)
        if not groups:
            raise DataError(f"{name} has no question")
        images: Any = tuple(asked[0].media[0] for asked in groups.values())  # members of tars and tables too
        return cls(name=name, keys=tuple(groups), images=images, questions=tuple(map(tuple, groups.values())))

    def open(self, index: int) -> Image.Image:
        """Open an image, RGB; InputError if it cannot be decoded, or the questions are not about one image."""
        question = self.questions[index][0]
        media = open_media_of(question)
        if len(media) != 1 or not isinstance(media[0], Image.Image):
            raise InputError(f"question {question.id}", "is not about one image")
        return media[0].convert("RGB")


def _caption_scores(answered: Sequence[Answered]) -> tuple[Scores, ...]:
    """Score CIDEr, with word weights from all images in each resample, and BLEU from each resample."""
    captions = [answer.prediction for answer in answered]
    references = [answer.question.answers for answer in answered]
    names = [answer.question.id for answer in answered]
    cider = ItemScores.of("CIDEr", cider_d_scores(captions, references), names, unit="")
    counts = bleu_counts(captions, references)
    values = bleu_of_counts(counts.sum(axis=0))
    draws = np.concatenate([bleu_of_counts(times @ counts) for times in resample(len(names), SEED)])  # (R, 4)
    orders = range(len(values))
    bleu = [ResampledScores.of(f"BLEU-{n + 1}", float(values[n]), draws[:, n], names) for n in orders]
    return (cider, *bleu)
