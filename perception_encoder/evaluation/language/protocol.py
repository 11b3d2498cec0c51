"""The interface of a language model that sees images, as the evaluators of this directory use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image


class Answerer(Protocol):
    """A model that answers questions about images in words."""

    @property
    def name(self) -> str:
        """The name that results and records carry."""
        ...

    def answer(self, images: Sequence[Image.Image], question: str, max_tokens: int) -> str:
        """Return the answer to a question about images, in order: several images, or frames of a video, or none.

        `max_tokens`: the most that the answer may have. Raises InputError for a question that it cannot take.
        """
        ...
