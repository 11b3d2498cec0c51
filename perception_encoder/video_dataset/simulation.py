"""A captioner that makes mistakes, and an annotator that refines captions, both simulated from a scene's truth.

The annotator reads a caption sentence by sentence, as a person would: it removes a sentence on an object that is not in
the scene, corrects an object, a colour or an action that is wrong, and adds each event that the caption does not tell.
It knows the scene's classes, colours and events, and no other truth, so it can refine the captions of any model. What
comes out is `simulated`, never `human`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception_encoder.data.captions import COLOURS, with_article
from perception_encoder.scenes.language.narration import VERBS

ORBIT = "The camera orbits around the scene."
_OMITTED, _OTHER_COLOUR, _OTHER_CLASS, _OTHER_ACTION, _INVENTED = 0.2, 0.25, 0.15, 0.15, 0.4
"""How often the captioner makes each mistake."""
_SENTENCES = re.compile(r"[^.!?]+[.!?]?")
_ACTIONS: dict[str, str] = {action: forms[0] for action, forms in VERBS.items()}


@dataclass(frozen=True)
class SceneTruth:
    """What is true of a rendered video."""

    colours: Mapping[str, frozenset[str]]
    """The colours of the objects of each class that is there; an object of many colours has none."""
    events: tuple[tuple[str, str], ...]
    """Class and action, in order; actions are those of `VERBS`."""
    orbits: bool
    """Whether the camera moves."""

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> SceneTruth:
        """Read the truth from the metadata of a rendered video."""
        colours: dict[str, set[str]] = {}
        classes = {each["id"]: each["kind"] for each in metadata["objects"]}
        for each in metadata["objects"]:
            colours.setdefault(each["kind"], set()).update({each["colour"]} - {""})
        moves = [event for event in metadata["events"] if event["object"] is not None]
        return cls(
            {name: frozenset(each) for name, each in colours.items()},
            tuple((classes[event["object"]], event["action"]) for event in moves),
            len(moves) < len(metadata["events"]),
        )

    def phrase(self, name: str) -> str:
        """Return a class with its colour, if there is one alone."""
        colours = self.colours.get(name, frozenset())
        return f"{next(iter(colours))} {name}" if len(colours) == 1 else name


@dataclass(frozen=True)
class SimulatedRefinement:
    """A refined caption, and what was done."""

    caption: str
    removed: int
    """Sentences."""
    corrected: int
    """Words and phrases."""
    added: int
    """Sentences."""


def simulate_caption(truth: SceneTruth, classes: Sequence[str], generator: np.random.Generator) -> str:
    """Describe the events with the mistakes of a captioner: sentences left out, wrong or invented."""
    absent = [name for name in classes if name not in truth.colours]
    sentences = []
    for name, action in truth.events:
        if generator.random() < _OMITTED and len(truth.events) > 1:
            continue
        subject, verb = truth.phrase(name), _ACTIONS[action]
        if generator.random() < _OTHER_COLOUR:
            subject = f"{_draw(generator, [each for each in COLOURS if each not in truth.colours[name]])} {name}"
        if absent and generator.random() < _OTHER_CLASS:
            subject = _draw(generator, absent)
        if generator.random() < _OTHER_ACTION:
            verb = _draw(generator, [form for form in _ACTIONS.values() if form != verb])
        sentences.append(f"{with_article(subject)} {verb}.")
    if absent and generator.random() < _INVENTED:
        sentences.append(f"{with_article(_draw(generator, absent))} stands in the background.")
    sentences = sentences or [f"{with_article(truth.phrase(next(iter(truth.colours))))} is in the scene."]
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


class SimulatedAnnotator:
    """Refines captions against the truth of their scenes."""

    def __init__(self, classes: Sequence[str]) -> None:
        """`classes`: all that a caption may name, in any scene."""
        names = sorted(set(classes), key=lambda name: (-len(name), name))
        self._classes = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b", re.IGNORECASE)
        colours = "|".join(sorted(COLOURS, key=lambda name: -len(name)))
        self._coloured = re.compile(rf"\b({colours}) ({'|'.join(map(re.escape, names))})\b", re.IGNORECASE)

    def refine(self, caption: str, truth: SceneTruth) -> SimulatedRefinement:
        """Remove, correct and add; a caption that is right and complete stays as it is."""
        sentences: list[str] = []
        covered: list[tuple[str, str]] = []
        removed = corrected = 0
        for sentence in (each.strip() for each in _SENTENCES.findall(caption)):
            if not sentence:
                continue
            right, changes = self._correct(sentence, truth, covered)
            if right is None:
                removed += 1
                continue
            corrected += changes
            sentences.append(right)
            covered += self._events_of(right, truth)
        missing = [event for event in truth.events if event not in covered]
        added = [f"{with_article(truth.phrase(name))} {_ACTIONS[action]}." for name, action in missing]
        added = [sentence[0].upper() + sentence[1:] for sentence in added]
        if truth.orbits and not any("camera" in sentence.lower() for sentence in sentences):
            added.append(ORBIT)
        return SimulatedRefinement(" ".join([*sentences, *added]), removed, corrected, len(added))

    def _correct(self, sentence: str, truth: SceneTruth, covered: Sequence[tuple[str, str]]) -> tuple[str | None, int]:
        """Return the sentence as it should be, None if it says nothing true, and the number of corrections."""
        changes = 0
        names = [match[0].lower() for match in self._classes.finditer(sentence)]
        action = next((each for each, form in _ACTIONS.items() if form in sentence), None)
        absent = [name for name in names if name not in truth.colours]
        if absent:
            actors = [name for name, each in truth.events if each == action and (name, each) not in covered]
            if len(names) > 1 or not actors:
                return None, 0
            pattern = rf"\b(?:an?|the) (?:(?:{'|'.join(COLOURS)}) )?{re.escape(absent[0])}\b"
            sentence, count = re.subn(pattern, with_article(truth.phrase(actors[0])), sentence, flags=re.IGNORECASE)
            if not count:
                return None, 0
            changes, names = 1, [actors[0]]
        if action is not None and names and (names[0], action) not in truth.events:
            right = [each for name, each in truth.events if name == names[0] and (name, each) not in covered]
            if not right:
                return None, 0
            sentence, changes = sentence.replace(_ACTIONS[action], _ACTIONS[right[0]]), changes + 1
        for match in list(self._coloured.finditer(sentence)):
            colour, name = match[1].lower(), match[2].lower()
            if name in truth.colours and colour not in truth.colours[name]:
                plain = re.compile(rf"\b(?:an? )?{re.escape(match[0])}\b", re.IGNORECASE)
                phrase = truth.phrase(name)
                articled = match.start() >= 2 and re.search(r"\ban? $", sentence[: match.start()], re.IGNORECASE)
                sentence = plain.sub(with_article(phrase) if articled else phrase, sentence, count=1)
                changes += 1
        return sentence[0].upper() + sentence[1:], changes

    def _events_of(self, sentence: str, truth: SceneTruth) -> list[tuple[str, str]]:
        """The events that a sentence tells."""
        names = {match[0].lower() for match in self._classes.finditer(sentence)}
        return [(name, action) for name, action in truth.events if name in names and _ACTIONS[action] in sentence]


def _draw(generator: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(generator.integers(len(choices)))]
