"""Conversations with images and videos, sampling of answers, and the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.records import Checked, Count, Range, ShareAboveZero

Role = Literal["system", "user", "assistant"]
Penalty = Annotated[float, Range(at_least=-2, at_most=2)]
MediaPart = Image.Image | VideoFrames
ContentPart = str | MediaPart
ROLES = ("system", "user", "assistant")
CAPTION_PROMPT = "Provide a one-sentence caption for the provided image."
"""The default prompt of a captioner: the wording of COCO's captions in lmms-eval."""


@dataclass(frozen=True)
class Message:
    """A turn of a conversation: text, images and videos in reading order."""

    role: Role
    content: tuple[ContentPart, ...]

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ConfigError(f"role is {self.role!r}; it must be one of {', '.join(ROLES)}")
        if self.role != "user" and any(not isinstance(part, str) for part in self.content):
            raise ConfigError(f"a message of the {self.role} holds an image or a video; only the user's messages may")

    @property
    def media(self) -> list[MediaPart]:
        """Images and videos, in order."""
        return [part for part in self.content if not isinstance(part, str)]


def ask(question: str, media: Sequence[MediaPart] = ()) -> list[Message]:
    """Return a conversation with one question about `media`, which come first, as in PLM's prompt."""
    return [Message("user", (*media, question))]


@dataclass(frozen=True, kw_only=True)
class Sampling(Checked):
    """How to choose tokens, and when to stop."""

    max_tokens: Count = 256
    """Maximum number of tokens of an answer."""
    temperature: Annotated[float, Range(at_least=0, at_most=2)] = 0.0
    """0 takes the most probable token each time (greedy); 1 draws by the model's probabilities."""
    top_p: ShareAboveZero = 1.0
    """Draw from the most probable tokens that together have this probability."""
    presence_penalty: Penalty = 0.0
    """Subtracted from the logit of a token already in the answer, as in OpenAI's API."""
    frequency_penalty: Penalty = 0.0
    """Subtracted from the logit of a token for each occurrence in the answer."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer, without being part of it."""
    seed: int = 0
    cut: bool = True
    """Cut the middle of the longest text to leave room for `max_tokens`. False shortens the answer instead, and refuses
    a conversation that leaves no room."""

    def until_stop(self, text: str) -> tuple[str, bool]:
        """Return a text up to its first stop, and whether there is one."""
        ends = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        return (text[: min(ends)], True) if ends else (text, False)


@dataclass(frozen=True)
class Reply:
    """The answer to a conversation."""

    text: str
    prompt_tokens: int
    """Number of tokens read, including those of images."""
    tokens: int
    """Number of generated tokens."""
    finished: bool
    """False if `max_tokens` or the context ended the answer."""
    cut: int = 0
    """Number of the prompt's text tokens left out because the context was full."""
