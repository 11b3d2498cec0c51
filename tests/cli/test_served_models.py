"""The further models of `pe serve`."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from perception_encoder.cli.served_models import check_models, language_queues
from perception_encoder.errors import UnknownModelError


@pytest.mark.parametrize(
    ("directory", "api", "models", "message"),
    [
        (Path(), False, ("a", None, None), "--chat-model needs --api"),
        (None, True, (None, "a", None), "--ask-model needs a directory"),
        (None, True, (None, None, "builtin"), "--features-model needs a directory"),
    ],
)
def test_a_model_that_nothing_would_use(
    directory: Path | None, api: bool, models: tuple[str | None, ...], message: str
) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        check_models(directory, api, *models)


def test_models_are_known_before_anything_starts() -> None:
    check_models(Path(), True, "a", "b", "builtin")
    with pytest.raises(UnknownModelError):
        check_models(Path(), False, None, None, "no-such-model")
    assert language_queues(None, None) == [None, None]
    with pytest.raises(UnknownModelError, match="no language model is called 'llava'"):
        language_queues("llava")
