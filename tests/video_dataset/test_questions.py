"""The 26 questions, and their answers in order."""

from __future__ import annotations

import re

import numpy as np

from perception_encoder.preprocess.video import read_frames
from perception_encoder.video_dataset.features import QUESTIONS, answer_columns, answer_questions
from tests.video_dataset.clips import short_clip
from tests.video_dataset.models import CountingModel


def test_there_are_26_different_questions() -> None:
    assert len(set(QUESTIONS.values())) == len(answer_columns()) == 26
    assert all(re.fullmatch(r"[A-Z][^?]*\?", question) for question in QUESTIONS.values())
    groups = {name.split("_")[0] for name in QUESTIONS}
    assert groups == {"camera", "scene", "motion", "action", "content", "hidden"}


def test_every_question_is_about_the_video() -> None:
    model = CountingModel()
    answers = answer_questions(model, read_frames(short_clip(), frames=8))
    assert np.array_equal(answers, np.arange(26) / 100) and len(model.conversations) == 26
    assert model.conversations[3][0].content[1] == "Is the camera far away from what it films? Answer yes or no."
