"""Models that answer by rule, and questions about images drawn for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from perception_encoder.conversation.assistant import Assistant
from perception_encoder.datasets.questions.question import Question
from perception_encoder.errors import ConfigError
from perception_encoder.preprocess.conversation import Message, Reply, Sampling
from perception_encoder.preprocess.frames import VideoFrames
from tests.evaluation.layers import png


class RuleAnswerer(Assistant):
    """Answers with what a rule makes of the images and the prompt; it counts its questions."""

    name = "rule"

    def __init__(self, rule: Callable[[Sequence[Image.Image], str], str]) -> None:
        self.rule, self.prompts = rule, []

    def generate(self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None) -> list[Reply]:
        assert sampling is not None
        return [self.answer(conversation) for conversation in conversations]

    def answer(self, conversation: Sequence[Message]) -> Reply:
        (message,) = conversation
        *media, prompt = message.content
        self.prompts.append(prompt)
        images = [image for item in media for image in (item.images if isinstance(item, VideoFrames) else [item])]
        return Reply(self.rule(images, prompt), 1, 1, True)


def colour_of(images: Sequence[Image.Image], prompt: str) -> str:
    """The main colour of the first image, `dark` without one."""
    if not images:
        return "dark"
    mean = np.asarray(images[0]).reshape(-1, 3).mean(axis=0)
    return ("Red.", "Green.", "Blue.")[int(mean.argmax())]


def refuse(images: Sequence[Image.Image], prompt: str) -> str:
    raise ConfigError("the images fill the context")


def drawn(index: int, size: tuple[int, int] = (60, 40)) -> bytes:
    """An image that is red, green or blue."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[..., index % 3] = 200
    return png(pixels)


def questions(count: int = 6, **fields: Any) -> list[Question]:
    """Questions of the images' colours; every other one is about the image before it."""
    names = ("red", "green", "blue")
    return [
        Question(
            **{
                "id": f"q{n}",
                "question": f"What colour ({n})?",
                "media": (drawn(n // 2),),
                "answers": (names[n // 2 % 3],) * 10,
                "block": f"image {n // 2}",
                **fields,
            }
        )
        for n in range(count)
    ]
