"""Evaluate a language model on a dataset of questions: ask each one once and score the answers by rules.

Answers are stored as lines of JSON, one by one, so that an interrupted evaluation resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from perception_encoder.datasets.questions.question import Corners, Question, QuestionMedia
from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.evaluation.feature_cache import decode_ahead
from perception_encoder.evaluation.inputs import FRAMES, content_digest, settings_digest
from perception_encoder.evaluation.language.answers import parse_yes_no, predicted_iou, scale_box, yes_no_answer
from perception_encoder.evaluation.language.captions import bleu_counts, bleu_of_counts, cider_d_scores
from perception_encoder.evaluation.language.tasks import LanguageTask, find_task
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.bootstrap import resample
from perception_encoder.evaluation.statistics.scores import SEED, ItemScores, ResampledScores, Scores
from perception_encoder.formats.entries import are_numbers, text_field
from perception_encoder.formats.media_directory import Clip
from perception_encoder.formats.tables import TableImage, append_json_lines, read_appended_lines
from perception_encoder.formats.tars import TarMember
from perception_encoder.inference.conversation.assistant import Assistant, digest_of
from perception_encoder.inference.conversation.media import open_part
from perception_encoder.inference.media import resolve
from perception_encoder.preprocess.conversation import MediaPart, Sampling, ask
from perception_encoder.preprocess.frames import VideoFrames, frame_indices
from perception_encoder.progress import Track, untracked


@dataclass(frozen=True, kw_only=True)
class AnswerRecord:
    """A model's answer to one question."""

    model: str
    digest: str = ""
    """Digest of the model's weights and media settings (`digest_of`): two models may share a name."""
    task: str
    """A name in `TASKS`, and how questions were asked if not the default way."""
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


def read_records(path: Path, model: str, digest: str, task: str) -> dict[str, AnswerRecord]:
    """Return a model's answers by question id, the last one if repeated; empty if the file is missing.

    A last line that was cut off is removed from the file. Raises DataError, with the line, for a line that is not a
    record, and for one of another model, of other weights of it, or of another task.
    """
    records = {}
    for where, fields in read_appended_lines(path):
        for name, expected in (("model", model), ("task", task)):
            if text_field(fields, name, where) != expected:
                raise DataError(f"{where}: answers of the {name} {fields[name]!r}, not {expected!r}; give another file")
        if fields.get("digest") != digest:
            reason = f"answers of {model!r} with other weights or other tiles; give another file"
            raise DataError(f"{where}: {reason}")
        prediction, box = fields.get("prediction"), fields.get("box")
        if not isinstance(prediction, str) or not (box is None or (are_numbers(box) and len(box) == 4)):
            raise DataError(f"{where}: `prediction` must be a string and `box` null or four numbers; remove the line")
        identity, prompt = text_field(fields, "id", where), text_field(fields, "prompt", where)
        corners = None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
        records[identity] = AnswerRecord(
            model=model,
            digest=digest,
            task=task,
            id=identity,
            prompt=prompt,
            media=str(fields.get("media")),
            prediction=prediction,
            box=corners,
        )
    return records


def append_records(path: Path, records: Iterable[AnswerRecord]) -> None:
    """Append records to a file, creating its directory; OutputError if it cannot be written."""
    append_json_lines(path, map(asdict, records))


AHEAD = 8
"""Number of questions whose images are decoded at a time."""


@dataclass(frozen=True)
class Answered:
    """A question and its answer."""

    question: Question
    record: AnswerRecord


class QuestionEvaluator:
    """Evaluates a model on the questions about images or videos of one dataset."""

    def __init__(
        self,
        task: str | LanguageTask,
        questions: Sequence[Question],
        records: Path | None = None,
        frames: int = FRAMES,
        blind: bool = False,
    ) -> None:
        """`task`: fixes prompts and metrics; by default the dataset's, named as in `read_questions`.

        `records`: a JSONL file that each answer is added to; questions that it answers are not put again. `frames`: of
        a video. `blind`: show no image: what the model knows without looking. ConfigError for an unknown dataset.
        """
        self.task = find_task(task) if isinstance(task, str) else task
        self.questions, self.records, self.frames, self.blind = questions, records, frames, blind
        self.name = self.task.name

    def run(self, model: Assistant, track: Track = untracked) -> list[Measurement]:
        """Return the task's metrics: see `Evaluator`. A question that the model refuses (ConfigError) is a failure."""
        digest = "" if self.records is None else digest_of(model)
        known = self._recorded(model, digest)
        failures: list[InputError] = []
        for record in self._ask(
            model, digest, [question for question in self.questions if question.id not in known], track
        ):
            if isinstance(record, InputError):
                failures.append(record)
            else:
                known[record.id] = record
                if self.records is not None:
                    append_records(self.records, [record])
        answered = [Answered(question, known[question.id]) for question in self.questions if question.id in known]
        if not answered:
            first = f"; the first: {failures[0]}" if failures else ""
            raise DataError(f"{self.name}: no question could be asked{first}")
        return [
            Measurement(
                task=self.name,
                method="generation, no image" if self.blind else "generation",
                scores=score_answers(self.task, answered),
                settings={"frames": str(self.frames)} if self.name == "mvbench" else {},
                failures=tuple(failures),
            )
        ]

    def _recorded(self, model: Assistant, digest: str) -> dict[str, AnswerRecord]:
        """Return the recorded answers to these questions, with the same words and the same media."""
        if self.records is None:
            return {}
        records = read_records(self.records, model.name, digest, self._label)
        asked = ((question, records[question.id]) for question in self.questions if question.id in records)
        return {
            question.id: record
            for question, record in asked
            if record.prompt == self.task.prompt(question) and record.media == self._media_digest(question)
        }

    def _media_digest(self, question: Question) -> str:
        """Return a digest of a question's media as a model sees it: other datasets may share ids and questions."""
        if self.blind:
            return ""
        try:
            sources = [source.read() if isinstance(source, TableImage) else source for source in question.media]
        except InputError:  # reported when it is opened
            return ""
        return settings_digest(content_digest(sources), self.frames)

    @property
    def _label(self) -> str:
        return f"{self.name}, no image" if self.blind else self.name

    def _ask(
        self, model: Assistant, digest: str, questions: Sequence[Question], track: Track
    ) -> Iterator[AnswerRecord | InputError]:
        """Ask questions in order; yield an InputError for one that is refused or whose media cannot be decoded."""
        opened = decode_ahead(lambda row: open_media_of(questions[row], self.frames), range(len(questions)), AHEAD)
        for question, media in track(zip(questions, opened, strict=True), f"asking {self.name}", len(questions)):
            if isinstance(media, InputError):
                yield media
                continue
            try:
                yield self._put(model, digest, question, media)
            except ConfigError as error:
                yield InputError(f"question {question.id}", str(error))

    def _put(self, model: Assistant, digest: str, question: Question, media: Sequence[MediaPart]) -> AnswerRecord:
        prompt, task = self.task.prompt(question), self.task
        conversation = ask(prompt, () if self.blind else media)
        prediction = model.generate([conversation], Sampling(max_tokens=task.max_tokens))[0].text
        box = None
        if question.box is not None and isinstance(media[0], Image.Image):
            box = scale_box(question.box, *media[0].size)
        answers = question.answers if question.correct is None else (question.choices[question.correct],)
        return AnswerRecord(
            model=model.name,
            digest=digest,
            task=self._label,
            id=question.id,
            prompt=prompt,
            media="" if self.records is None else self._media_digest(question),
            prediction=prediction,
            answers=answers,
            box=box,
            score=None if task.score is None else task.score(prediction, question, box),
        )


def score_answers(task: LanguageTask, answered: Sequence[Answered]) -> tuple[Scores, ...]:
    """Return the metrics of answers to a task's questions: over all, then for each group of questions."""
    if task.score is None:
        return _caption_scores(answered)
    groups = sorted({answer.question.group for answer in answered})
    scores: tuple[Scores, ...] = _score_group(task, answered, "")
    for group in groups if len(groups) > 1 else ():
        scores += _score_group(task, [answer for answer in answered if answer.question.group == group], f", {group}")
    return scores


def _score_group(task: LanguageTask, answered: Sequence[Answered], suffix: str) -> tuple[ItemScores, ...]:
    assert task.score is not None
    values = [task.score(answer.record.prediction, answer.question, answer.record.box) for answer in answered]
    make = _item_scores(answered, suffix)
    if task.name == "mvbench" and not suffix:  # the mean over tasks, as published
        groups = np.unique([answer.question.group for answer in answered], return_inverse=True)[1]
        return (make(task.metric, np.array(values), None, groups),)
    first = make(task.metric, np.array(values), None, None)
    if task.name == "pope":
        return (first, *_yes_no_scores(answered, make))
    boxed = [(answer.record.prediction, answer.record.box) for answer in answered if answer.record.box is not None]
    if len(boxed) < len(answered):
        return (first,)
    return (first, make("mean IoU", np.array([predicted_iou(text, box) for text, box in boxed]), None, None))


def open_media_of(question: Question, frames: int = FRAMES) -> list[MediaPart]:
    """Open a question's images, RGB, or at most `frames` frames of its video; InputError has the question's id."""
    try:
        if not question.frames:
            return [_open(source, question.id, frames) for source in question.media]
        count = len(question.media)
        chosen = frame_indices(count, frames) if count > frames else range(count)
        images = [_open(question.media[index], question.id, frames) for index in chosen]
    except InputError as error:
        raise type(error)(f"question {question.id}", error.reason) from error
    stills = [image for image in images if isinstance(image, Image.Image)]
    nan = float("nan")
    return [VideoFrames(stills, [nan] * len(stills), nan, count, complete=True)]


def _open(source: QuestionMedia, name: str, frames: int) -> MediaPart:
    if isinstance(source, Clip):
        return open_part(resolve(source.path, name, start=source.start, end=source.end), frames)
    if isinstance(source, TarMember):
        return open_part(resolve(source.read(name), name), frames)
    return open_part(resolve(source.read() if isinstance(source, TableImage) else source, name), frames)


_Make = Callable[[str, np.ndarray, np.ndarray | None, np.ndarray | None], ItemScores]
"""Makes a metric of name, values, weights and groups."""


def _item_scores(answered: Sequence[Answered], suffix: str) -> _Make:
    """Return a function that makes metrics of these questions, with questions about the same image as one block."""
    names = [answer.question.id for answer in answered]
    blocks = [answer.question.block or f"question {answer.question.id}" for answer in answered]

    def make(metric: str, values: np.ndarray, weights: np.ndarray | None, groups: np.ndarray | None) -> ItemScores:
        return ItemScores.of(metric + suffix, values, names, weights=weights, groups=groups, blocks=blocks)

    return make


def _yes_no_scores(answered: Sequence[Answered], make: _Make) -> tuple[ItemScores, ...]:
    """Score precision, recall, F1 and the share of yes, as weighted means over questions."""
    yes = np.array([parse_yes_no(answer.record.prediction) is True for answer in answered])
    true = np.array([yes_no_answer(answer.question.answers[0]) for answer in answered])
    hits = yes & true
    return (
        make("precision", true, yes.astype(float), None),
        make("recall", yes, true.astype(float), None),
        make("F1", hits, yes.astype(float) + true, None),
        make("yes ratio", yes, None, None),
    )


def _caption_scores(answered: Sequence[Answered]) -> tuple[Scores, ...]:
    """Score CIDEr, with word weights from all images in each resample, and BLEU from each resample."""
    captions = [answer.record.prediction for answer in answered]
    references = [answer.question.answers for answer in answered]
    names = [answer.question.id for answer in answered]
    cider = ItemScores.of("CIDEr", cider_d_scores(captions, references), names, unit="")
    counts = bleu_counts(captions, references)
    values = bleu_of_counts(counts.sum(axis=0))
    same = np.zeros(len(names), dtype=np.int64)
    draws = np.concatenate([bleu_of_counts(times @ counts) for times in resample(same, SEED)])  # (R, 4)
    orders = range(len(values))
    bleu = [ResampledScores.of(f"BLEU-{n + 1}", float(values[n]), draws[:, n], names) for n in orders]
    return (cider, *bleu)
