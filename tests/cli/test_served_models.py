"""The further models of `pe serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from perception_encoder.cli.serve import check_models, language_queues
from perception_encoder.errors import CheckpointError, UnknownModelError


@pytest.mark.parametrize(
    ("directory", "api", "models", "message"),
    [
        (None, False, (None, None, None, None), "nothing to serve: name a directory, or add --api"),
        (Path(), False, ("a", None, None, None), "--chat-model needs --api"),
        (None, True, (None, "a", None, None), "--ask-model needs a directory"),
        (None, True, (None, None, "builtin", None), "--features-model needs a directory"),
        (None, True, (None, None, None, "head.safetensors"), "--depth-head needs a directory"),
    ],
)
def test_a_model_that_nothing_would_use(
    directory: Path | None, api: bool, models: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        check_models(directory, api, *models)


def test_models_are_known_before_anything_starts() -> None:
    check_models(Path(), True, "a", "b", "builtin", None)
    with pytest.raises(UnknownModelError):
        check_models(Path(), False, None, None, "no-such-model", None)
    with pytest.raises(CheckpointError, match="no such file"):
        check_models(Path(), False, None, None, None, "no-such-head.safetensors")
    assert language_queues(None, None) == [None, None]
    with pytest.raises(UnknownModelError, match="no language model is called 'llava'"):
        language_queues("llava")
