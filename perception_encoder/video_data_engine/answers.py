"""Put conversations to a model: several at a time, each with its own attempts, and with a failure in its position."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from perception_encoder.errors import ConfigError, EndpointError, PerceptionEncoderError
from perception_encoder.inference.conversation.assistant import Assistant
from perception_encoder.preprocess.conversation import Message, Reply, Sampling

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 60.0
"""Seconds between two attempts, whatever an endpoint requests."""


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """How often an endpoint is tried."""

    tries: int = 3
    pause: float = 1.0
    """Seconds before the second attempt; each further pause is twice as long."""


def answer_each(
    generator: Assistant,
    conversations: Sequence[Sequence[Message]],
    sampling: Sampling,
    attempts: Attempts,
    threads: int = 1,
) -> list[Reply | PerceptionEncoderError]:
    """Return an answer to each conversation, or what went wrong.

    `threads`: requests that are sent at a time, for a model that several threads may call; one thread gives the model
    all conversations together, and one by one if that fails. Raises EndpointError if no request can succeed.
    """
    if threads > 1 and len(conversations) > 1:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda each: _answer(generator, each, sampling, attempts), conversations))
    try:
        replies: list[Reply | PerceptionEncoderError] = [*generator.generate(conversations, sampling)]
        return [_checked(reply) for reply in replies]
    except (EndpointError, ConfigError):
        return [_answer(generator, each, sampling, attempts) for each in conversations]


def _answer(
    generator: Assistant, conversation: Sequence[Message], sampling: Sampling, attempts: Attempts
) -> Reply | PerceptionEncoderError:
    for number in range(1, attempts.tries + 1):
        try:
            return _checked(generator.generate([conversation], sampling)[0])
        except EndpointError as error:
            if error.scope == "service":
                raise
            if error.scope == "request" or number == attempts.tries:
                return error
            pause = attempts.pause * 2 ** (number - 1) if error.wait is None else error.wait
            logger.info("attempt %d of %d: %s", number, attempts.tries, error)
            time.sleep(min(LONGEST_PAUSE, pause))
        except ConfigError as error:  # it does not fit the model's context
            return error
    raise AssertionError("tries is at least 1")


def _checked(reply: Reply | PerceptionEncoderError) -> Reply | PerceptionEncoderError:
    """An answer without a letter or digit is an error."""
    if isinstance(reply, Reply) and not any(letter.isalnum() for letter in reply.text):
        return ConfigError("the model answered without a word")
    return reply
