"""The interface of answering models."""

from __future__ import annotations

import inspect

from perception_encoder.evaluation.language.protocol import Answerer
from tests.evaluation.language.answerers import RuleAnswerer


def test_the_tests_models_have_its_form() -> None:
    assert inspect.signature(RuleAnswerer.answer) == inspect.signature(Answerer.answer)
    assert isinstance(RuleAnswerer.name, str)
