"""The further models of `pe serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perception_encoder.api import check_served, language_queues
from perception_encoder.errors import CheckpointError, ConfigError, UnknownModelError


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
    with pytest.raises(ConfigError, match=message):
        check_served(directory, api, *models)


def test_models_are_known_before_anything_starts() -> None:
    check_served(Path(), True, "a", "b", "builtin", None)
    with pytest.raises(UnknownModelError):
        check_served(Path(), False, None, None, "no-such-model", None)
    with pytest.raises(CheckpointError, match="no such file"):
        check_served(Path(), False, None, None, None, "no-such-head.safetensors")
    assert language_queues(None, None) == [None, None]
    with pytest.raises(UnknownModelError, match="no language model is called 'llava'"):
        language_queues("llava")
