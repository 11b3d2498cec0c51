"""Many documents of one kind, drawn once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from synthetic.documents.document import Document, document

DrawMany = Callable[..., list[Document]]


@pytest.fixture(scope="session")
def draw_many() -> DrawMany:
    """`draw_many(kind, split, count)` returns clean documents of seeds 0, 1, …"""

    @cache
    def draw(kind: str, split: str = "train", count: int = 40) -> list[Document]:
        return [document(seed, kind, split, 320, look="clean") for seed in range(count)]

    return draw


@pytest.fixture(scope="session")
def printed() -> Callable[[Document, tuple[int, int, int, int]], str]:
    """`printed(document, box)` returns the words whose boxes lie inside a box, in their order."""

    def read(drawn: Document, box: tuple[int, int, int, int]) -> str:
        inside = [
            word.text
            for word in drawn.words
            if word.box[0] >= box[0] and word.box[1] >= box[1] and word.box[2] <= box[2] and word.box[3] <= box[3]
        ]
        return " ".join(inside)

    return read
