"""Ask a model again after a failed attempt, and refuse answers without a word."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from perception_encoder.errors import ConfigError, EndpointError, PerceptionEncoderError
from perception_encoder.preprocess.conversation import Message, Reply, Sampling

logger = logging.getLogger(__name__)

TRIES = 3
"""Attempts at an answer of an endpoint."""
PAUSE, MAX_PAUSE = 1.0, 60.0
"""Seconds before the second attempt (each later pause is twice as long), and at most, whatever an endpoint asks for."""


class Answerer(Protocol):
    """What an `Assistant` does."""

    def generate(self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None) -> list[Reply]:
        """Return an answer to each conversation."""
        ...


def answer_all(
    model: Answerer,
    conversations: Sequence[Sequence[Message]],
    sampling: Sampling,
    tries: int = TRIES,
    pause: float = PAUSE,
    threads: int = 1,
) -> list[Reply | PerceptionEncoderError]:
    """Return an answer to each conversation, or its error; an answer without a letter or digit is one.

    `tries`, `pause`: see `answer`. `threads`: concurrent requests, to a model that is safe to share; one thread gives
    the model all conversations together, and one by one if that fails. Raises EndpointError if no request can succeed.
    """

    def one(conversation: Sequence[Message]) -> Reply | PerceptionEncoderError:
        try:
            return _checked(answer(model, conversation, sampling, tries, pause))
        except EndpointError as error:
            if error.scope == "service":
                raise
            return error
        except ConfigError as error:  # it does not fit the model's context
            return error

    if threads > 1 and len(conversations) > 1:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, conversations))
    if len(conversations) > 1:
        try:
            return [_checked(reply) for reply in model.generate(conversations, sampling)]
        except (EndpointError, ConfigError):
            pass
    return list(map(one, conversations))


def answer(
    model: Answerer,
    conversation: Sequence[Message],
    sampling: Sampling,
    tries: int = TRIES,
    pause: float = PAUSE,
) -> Reply:
    """Return an answer to a conversation, after at most `tries` attempts at an endpoint that fails for the moment.

    Raises the EndpointError of the last one, or of one that does not get better, and what `generate` raises.
    """
    for attempt in range(1, tries):
        try:
            return model.generate([conversation], sampling)[0]
        except EndpointError as error:
            if error.scope in ("request", "service"):
                raise
            wait = pause * 2 ** (attempt - 1) if error.wait is None else error.wait
            logger.info("attempt %d of %d: %s", attempt, tries, error)
            time.sleep(min(MAX_PAUSE, wait))
    return model.generate([conversation], sampling)[0]


def _checked(reply: Reply) -> Reply | PerceptionEncoderError:
    if not any(letter.isalnum() for letter in reply.text):
        return ConfigError("the model answered without a word")
    return reply
