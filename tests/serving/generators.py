"""A language model for tests, that answers with what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence

from PIL import Image

from perception_encoder.conversation.assistant import Assistant
from perception_encoder.errors import ContextLengthError
from perception_encoder.preprocess.conversation import Message, Reply, Sampling

ENDLESS = "count for ever"
"""A question whose answer ends with `max_tokens`, or when the client has gone."""
TOO_LONG = "too long"
"""A question that does not fit the context."""


class EchoGenerator(Assistant):
    """Repeats the last question, after a description of all media; a word is a token.

    Attributes: `conversations` (all of them), `tokens` (how many were made), `running` (of how many streams at the same
    time), `most` (of `running` so far), `pause` (seconds a token).
    """

    name = "echo"

    def __init__(self, pause: float = 0.0) -> None:
        self.pause, self.tokens, self.running, self.most = pause, 0, 0, 0
        self.conversations: list[list[Message]] = []
        self._never = threading.Event()

    def generate(self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None) -> list[Reply]:
        raise AssertionError("servers stream, so that a client that goes ends its generation")

    def generate_stream(
        self, conversation: Sequence[Message], sampling: Sampling | None = None
    ) -> Generator[str, None, Reply]:
        sampling = sampling or Sampling()
        self.conversations.append(list(conversation))
        question = str(conversation[-1].content[-1])
        if question == TOO_LONG and not sampling.cut:
            raise ContextLengthError("the conversation does not fit the context of 10")
        words = self._answer(conversation, question)
        if question == ENDLESS:
            words = [f"{number} " for number in range(sampling.max_tokens + 1)]
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for word in words[: sampling.max_tokens]:
                self._never.wait(self.pause)
                self.tokens += 1
                yield word
        finally:
            self.running -= 1
        given = words[: sampling.max_tokens]
        prompt = sum(len(str(part).split()) for message in conversation for part in message.content)
        cut = 7 if question == TOO_LONG else 0
        return Reply("".join(given), prompt, len(given), len(words) <= sampling.max_tokens, cut)

    def _answer(self, conversation: Sequence[Message], question: str) -> list[str]:
        media = [item for message in conversation for item in message.media]
        sizes = [
            f"{item.width}x{item.height} " if isinstance(item, Image.Image) else f"{len(item.images)} frames "
            for item in media
        ]
        return [*sizes, *(f"{word} " for word in question.split())]
