"""The truth of a rendered video, its wording, and what a caption mentions: objects with number and colour, actions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from synthetic.captions import COLOURS, with_article
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
class SceneTruth:
    """The true objects and events of a rendered video."""

    objects: tuple[tuple[str, str], ...]
    """Class and colour; the colour of a multicoloured object is empty."""
    events: tuple[tuple[str, str], ...]
    """Class and action, in order; actions are those of `VERBS`."""
    orbits: bool
    """Whether the camera moves."""

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> SceneTruth:
        """Read the truth from the metadata of a rendered video."""
        classes = {item["id"]: item["kind"] for item in metadata["objects"]}
        moves = [event for event in metadata["events"] if event["object"] is not None]
        return cls(
            tuple((item["kind"], item["colour"]) for item in metadata["objects"]),
            tuple((classes[event["object"]], event["action"]) for event in moves),
            len(moves) < len(metadata["events"]),
        )

    @cached_property
    def colours(self) -> dict[str, frozenset[str]]:
        """The colours of the objects of each class in the scene."""
        names = dict.fromkeys(name for name, _ in self.objects)
        return {name: frozenset(colour for other, colour in self.objects if other == name) - {""} for name in names}

    @cached_property
    def counts(self) -> dict[str, int]:
        """The number of objects of each class in the scene."""
        return {name: sum(other == name for other, _ in self.objects) for name in self.colours}

    def colour(self, name: str) -> str:
        """Return the colour of all objects of a class, or "" if they differ or have none."""
        colours = {colour for other, colour in self.objects if other == name}
        return next(iter(colours)) if len(colours) == 1 else ""

    def phrase(self, name: str) -> str:
        """Return a class with its colour, if its objects have one."""
        return f"{self.colour(name)} {name}".strip()

    def counted(self, name: str) -> str:
        """Return all objects of a class as a phrase: "a red chair", "two chairs"."""
        count = self.counts[name]
        if count == 1:
            return with_article(self.phrase(name))
        return " ".join(filter(None, (NUMBERS[count], self.colour(name), plural_of(name))))


@dataclass(frozen=True)
class Mention:
    """A phrase that names an object, such as "two red chairs"."""

    start: int
    end: int
    """Its characters in the sentence."""
    name: str
    """A class, in the singular."""
    colour: str
    """Empty if not named."""
    number: int | None
    """None if not stated, as with "the"."""


def split_sentences(caption: str) -> list[str]:
    """Return the sentences of a caption without spaces around them."""
    return [sentence.strip() for sentence in _SENTENCES.findall(caption) if sentence.strip(" .!?")]


def find_actions(sentence: str) -> list[str]:
    """Return the actions of `VERBS` that a sentence mentions, in order."""
    starts = {action: match.start() for action, pattern in _ACTIONS.items() if (match := pattern.search(sentence))}
    return sorted(starts, key=starts.__getitem__)


class MentionReader:
    """Finds objects of known classes, also in the plural; longer names take precedence."""

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
