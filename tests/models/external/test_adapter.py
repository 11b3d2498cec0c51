"""Errors of other libraries name the model and what to do; models that serve one use refuse the other."""

from __future__ import annotations

import re

import pytest

from perception_encoder.errors import ConfigError, UnknownModelError, WeightsUnavailableError
from perception_encoder.inference.load import load, load_tower


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("timm:no_such_model", UnknownModelError, "timm:no_such_model could not be loaded"),
        ("open_clip:no_such_model,x", UnknownModelError, "open_clip:no_such_model,x could not be loaded"),
        ("open_clip:ViT-B-32", WeightsUnavailableError, "names no weights; give open_clip:ViT-B-32,TAG"),
        ("open_clip:local-dir:/no/such", WeightsUnavailableError, "could not be loaded"),
    ],
)
def test_a_model_that_cannot_be_had_is_named(name: str, error: type[Exception], message: str) -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(error, match=re.escape(message)):
        load(name)


def test_a_model_without_layers_says_so() -> None:
    with pytest.raises(ConfigError, match="open_clip:ViT-B-32,openai has no readable layers"):
        load_tower("open_clip:ViT-B-32,openai")
