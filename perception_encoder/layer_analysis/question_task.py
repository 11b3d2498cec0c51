"""Evaluate layers on questions: fit a small language model to each layer's tokens and let it answer (section 3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property, partial

from perception_encoder.data.conversation_records import box_text
from perception_encoder.evaluation.feature_cache import CachedTokens
from perception_encoder.evaluation.inputs import settings_digest
from perception_encoder.evaluation.language.answers import scale_box
from perception_encoder.evaluation.language.evaluators import Answered, AskedImages, score_answers
from perception_encoder.evaluation.language.tasks import LanguageTask
from perception_encoder.evaluation.layer_evaluator import HeadEvaluator
from perception_encoder.evaluation.statistics.scores import HEAD_SEEDS, Label, Scores
from perception_encoder.language_models.answer_head import AnswerHeadConfig, fit_answers
from perception_encoder.language_models.decoder import Decoder
from perception_encoder.progress import Track


class QuestionTask(HeadEvaluator):
    """Answers to a dataset's questions from a head fitted on the tokens of a layer."""

    def __init__(
        self,
        task: LanguageTask,
        train: AskedImages,
        test: AskedImages,
        head: AnswerHeadConfig | None = None,
        image_size: tuple[int, int] | None = None,
        head_seeds: int = HEAD_SEEDS,
        make_decoder: Callable[[int], Decoder] | None = None,
    ) -> None:
        """`make_decoder`: the language model of a head, by its seed; by default a fresh one."""
        self.task, self.train, self.test, self.make_decoder = task, train, test, make_decoder
        self._turns, self._boxes = cache(self._read_turns), cache(partial(_scaled_boxes, test))
        sets = (train, self._turns), (test, self._boxes)
        super().__init__(task.name, *sets, head or AnswerHeadConfig(), image_size, head_seeds)
        self.label = Label(task=task.name, method="answers")

    @cached_property
    def digest(self) -> str:
        asked = [
            [[(q.id, q.question, q.answers, q.correct, q.box) for q in questions] for questions in part.questions]
            for part in (self.train, self.test)
        ]
        return settings_digest(self.head, self.head_seeds, self.task.name, asked)

    def _read_turns(self, row: int) -> list[tuple[str, str]]:
        """Return an image's prompts and correct answers: a text, a choice's letter, or a box."""
        turns = []
        for question in self.train.questions[row]:
            if question.box is not None:
                answer = box_text(question.box, *self.train.open(row).size)
            elif question.correct is not None:
                answer = chr(ord("A") + question.correct)
            else:
                answer = max(question.answers, key=question.answers.count)
            turns.append((self.task.prompt(question), answer))
        return turns

    def fit(self, head: AnswerHeadConfig, train: CachedTokens, test: CachedTokens, track: Track) -> tuple[Scores, ...]:
        decoder = self.make_decoder(head.fit.seed) if self.make_decoder else None
        fitted = fit_answers(train.patches, [self._turns(int(row)) for row in train.rows], head, decoder, track)
        asked = [
            (at, question, box)
            for at, row in enumerate(test.rows)
            for question, box in zip(self.test.questions[row], self._boxes(int(row)), strict=True)
        ]
        prompts = [(at, self.task.prompt(question)) for at, question, _ in asked]
        predictions = fitted.answer(test.patches, prompts, self.task.max_tokens)
        answered = [Answered(item, text, box) for (_, item, box), text in zip(asked, predictions, strict=True)]
        return score_answers(self.task, answered)


def _scaled_boxes(images: AskedImages, row: int) -> list[tuple[float, float, float, float] | None]:
    """Return the box of each question about an image, in thousandths; None without one."""
    boxes = [question.box for question in images.questions[row]]
    size = images.open(row).size if any(boxes) else (0, 0)
    return [box and scale_box(box, *size) for box in boxes]
