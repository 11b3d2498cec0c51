"""Word-level difference of two captions: what was removed, what was added, and what stayed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

_WORDS = re.compile(r"\S+")


@dataclass(frozen=True)
class WordRun:
    """Neighbouring words with one fate."""

    change: Literal["same", "removed", "added"]
    words: tuple[str, ...]


def diff_words(original: str, caption: str) -> list[WordRun]:
    """Return the runs of words that turn one caption into another; of a replacement the removed words come first."""
    before, after = _WORDS.findall(original), _WORDS.findall(caption)
    runs = []
    for tag, start, end, other_start, other_end in _matcher(before, after).get_opcodes():
        if tag == "equal":
            runs.append(WordRun("same", tuple(before[start:end])))
            continue
        if end > start:
            runs.append(WordRun("removed", tuple(before[start:end])))
        if other_end > other_start:
            runs.append(WordRun("added", tuple(after[other_start:other_end])))
    return runs


def count_words(text: str) -> int:
    """Return the number of words, which white space separates."""
    return len(_WORDS.findall(text))


def surviving_words(original: str, caption: str) -> list[bool]:
    """Return for each word of the original whether it is in the caption still."""
    return [survives for run in diff_words(original, caption) for survives in _fates(run)]


def word_similarity(one: str, other: str) -> float:
    """Return the share of the words of both that they have in common, in order: 1 for equal captions."""
    return _matcher(_WORDS.findall(one), _WORDS.findall(other)).ratio()


def _matcher(one: list[str], other: list[str]) -> SequenceMatcher[str]:
    return SequenceMatcher(None, one, other, autojunk=False)


def _fates(run: WordRun) -> Iterator[bool]:
    if run.change != "added":
        yield from [run.change == "same"] * len(run.words)
