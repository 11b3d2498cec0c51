"""Find what a caption of a rendered video mentions: objects with their number and colour, and actions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from perception_encoder.data.captions import COLOURS
from synthetic.scenes.language.narration import VERBS
from synthetic.scenes.language.phrases import NUMBERS
from synthetic.scenes.objects.names import plural_of

_SENTENCES = re.compile(r"[^.!?]+[.!?]?")
_ACTIONS = {
    "falls": re.compile(r"\bfall(?:s|ing|en)?\b|\bfell\b", re.IGNORECASE),
    "rolls": re.compile(r"\broll(?:s|ing|ed)\b", re.IGNORECASE),
    "is pushed": re.compile(r"\bpush(?:es|ing|ed)\b", re.IGNORECASE),
    "tips over": re.compile(r"\btip(?:s|ping|ped) over\b", re.IGNORECASE),
}
assert _ACTIONS.keys() == VERBS.keys()


@dataclass(frozen=True)
class Mention:
    """A phrase that names an object, such as "two red chairs"."""

    start: int
    end: int
    """Its characters in the sentence."""
    name: str
    """A class, in the singular."""
    colour: str
    """Empty if none is named."""
    number: int | None
    """None if none is said, as with "the"."""


def split_sentences(caption: str) -> list[str]:
    """Return the sentences of a caption without spaces around them."""
    return [sentence.strip() for sentence in _SENTENCES.findall(caption) if sentence.strip(" .!?")]


def find_actions(sentence: str) -> list[str]:
    """Return the actions of `VERBS` that a sentence tells, in its order."""
    starts = {action: match.start() for action, pattern in _ACTIONS.items() if (match := pattern.search(sentence))}
    return sorted(starts, key=starts.__getitem__)


class MentionReader:
    """Finds the objects of known classes, the longest names first; plurals are found too."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._names = {form: name for name in sorted(set(classes)) for form in (plural_of(name), name)}
        forms = "|".join(map(re.escape, sorted(self._names, key=lambda form: (-len(form), form))))
        colours = "|".join(sorted(COLOURS, key=lambda name: -len(name)))
        numbers = "|".join((*NUMBERS[1:], "an?", "the"))
        self._phrase = re.compile(rf"\b(?:({numbers}) )?(?:({colours}) )?({forms})\b", re.IGNORECASE)

    def find(self, sentence: str) -> list[Mention]:
        """Return the objects that a sentence mentions, in order."""
        mentions = []
        for match in self._phrase.finditer(sentence):
            number, colour, form = (group and group.lower() for group in match.groups())
            count = 1 if number in ("a", "an") else NUMBERS.index(number) if number in NUMBERS else None
            mentions.append(Mention(match.start(), match.end(), self._names[form], colour or "", count))
        return mentions
