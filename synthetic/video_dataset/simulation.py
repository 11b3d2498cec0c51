"""A captioner that makes mistakes, and an annotator that refines captions, both simulated from a scene's truth.

The annotator reads a caption sentence by sentence, as a person would: it removes a sentence about an object that is not
in the scene, corrects wrong objects, numbers, colours and actions, and adds the events and objects that the caption
omits. It knows only the scene's objects, colours and events, so it can refine the captions of any model. Its captions
are `simulated`, never `human`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from synthetic.captions import COLOURS, with_article
from synthetic.scenes.language.narration import VERBS
from synthetic.scenes.language.phrases import join_phrases
from synthetic.video_dataset.truth import Mention, MentionReader, SceneTruth, find_actions, split_sentences

ORBIT = "The camera orbits around the scene."
_OMITTED, _OTHER_COLOUR, _OTHER_CLASS, _OTHER_ACTION, _INVENTED = 0.2, 0.25, 0.15, 0.15, 0.4
"""Probability of each mistake of the captioner."""
_ACTIONS: dict[str, str] = {action: forms[0] for action, forms in VERBS.items()}


@dataclass(frozen=True)
class SimulatedRefinement:
    """A refined caption, and the number of changes."""

    caption: str
    removed: int
    """Sentences."""
    corrected: int
    """Words and phrases."""
    added: int
    """Sentences."""


def simulate_caption(truth: SceneTruth, classes: Sequence[str], generator: np.random.Generator) -> str:
    """Describe the events with a captioner's mistakes: omitted, wrong or invented sentences."""
    absent = [name for name in classes if name not in truth.colours]
    sentences = []
    for name, action in truth.events:
        if generator.random() < _OMITTED and len(truth.events) > 1:
            continue
        subject, verb = truth.phrase(name), _ACTIONS[action]
        if generator.random() < _OTHER_COLOUR:
            subject = f"{_draw(generator, [colour for colour in COLOURS if colour not in truth.colours[name]])} {name}"
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
        self._reader = MentionReader(classes)

    def refine(self, caption: str, truth: SceneTruth) -> SimulatedRefinement:
        """Remove, correct and add; a correct and complete caption does not change."""
        sentences: list[str] = []
        mentioned: list[tuple[str, str]] = []
        removed = corrected = 0
        for sentence in split_sentences(caption):
            right, changes = self._correct(sentence, truth, mentioned)
            if right is None:
                removed += 1
                continue
            corrected += changes
            sentences.append(right)
            mentioned += self._events_of(right, truth)
        missing = [event for event in truth.events if event not in mentioned]
        added = [f"{with_article(truth.phrase(name))} {_ACTIONS[action]}." for name, action in missing]
        if truth.orbits and not any("camera" in sentence.lower() for sentence in sentences):
            added.append(ORBIT)
        named = {mention.name for sentence in [*sentences, *added] for mention in self._reader.find(sentence)}
        if others := [name for name in truth.counts if name not in named]:
            verb = "is" if truth.counts[others[0]] == 1 else "are"
            added.append(f"There {verb} also {join_phrases([truth.counted(name) for name in others])}.")
        added = [sentence[0].upper() + sentence[1:] for sentence in added]
        return SimulatedRefinement(_join_sentences([*sentences, *added]), removed, corrected, len(added))

    def _correct(
        self, sentence: str, truth: SceneTruth, mentioned: Sequence[tuple[str, str]]
    ) -> tuple[str | None, int]:
        """Return the corrected sentence, None if nothing in it is true, and the number of corrections."""
        mentions, actions = self._reader.find(sentence), find_actions(sentence)
        if not mentions:
            return sentence, 0
        if actions:
            return self._correct_event(sentence, mentions, actions[0], truth, mentioned)
        right = [(mention, _right_phrase(sentence, mention, truth)) for mention in mentions]
        phrases = [phrase for _, phrase in right if phrase is not None]
        if not phrases:
            return None, 0
        changes = sum(phrase != sentence[mention.start : mention.end] for mention, phrase in right)
        if len(phrases) < len(right):  # the list of objects anew
            sentence = sentence[: mentions[0].start] + join_phrases(phrases) + sentence[mentions[-1].end :]
        else:
            for mention, phrase in reversed(right):
                sentence = f"{sentence[: mention.start]}{phrase}{sentence[mention.end :]}"
        return sentence[0].upper() + sentence[1:], changes

    def _correct_event(
        self,
        sentence: str,
        mentions: Sequence[Mention],
        action: str,
        truth: SceneTruth,
        mentioned: Sequence[tuple[str, str]],
    ) -> tuple[str | None, int]:
        """Correct the first object of a sentence about an event, its colour, and the action."""
        subject, changes = mentions[0], 0
        name, phrase = subject.name, _right_phrase(sentence, subject, truth)
        if phrase is None:
            actors = [name for name, other in truth.events if other == action and (name, other) not in mentioned]
            if len(mentions) > 1 or not actors:
                return None, 0
            name, phrase = actors[0], with_article(truth.phrase(actors[0]))
        if (name, action) not in truth.events:
            right = [other for actor, other in truth.events if actor == name and (actor, other) not in mentioned]
            if not right or _ACTIONS[action] not in sentence:
                return None, 0
            sentence, changes = sentence.replace(_ACTIONS[action], _ACTIONS[right[0]]), 1
        changes += phrase != sentence[subject.start : subject.end]
        sentence = f"{sentence[: subject.start]}{phrase}{sentence[subject.end :]}"
        return sentence[0].upper() + sentence[1:], changes

    def _events_of(self, sentence: str, truth: SceneTruth) -> list[tuple[str, str]]:
        """Return the true events that a sentence mentions."""
        names = {mention.name for mention in self._reader.find(sentence)}
        actions = find_actions(sentence)
        return [(name, action) for name, action in truth.events if name in names and action in actions]


def _right_phrase(sentence: str, mention: Mention, truth: SceneTruth) -> str | None:
    """Return a phrase with the right number and colour, unchanged if correct; None if there is no such object."""
    if mention.name not in truth.counts:
        return None
    phrase = sentence[mention.start : mention.end]
    count = truth.counts[mention.name]
    if mention.number is not None and mention.number > count:
        right = truth.counted(mention.name)
        return right[0].upper() + right[1:] if phrase[0].isupper() else right
    if not mention.colour or mention.colour in truth.colours[mention.name]:
        return phrase
    start, rest = re.split(mention.colour, phrase, maxsplit=1, flags=re.IGNORECASE)
    plain = f"{truth.colour(mention.name)} {rest.strip()}".strip()
    if start.strip().lower() in ("a", "an"):
        return with_article(plain)
    return f"{start}{plain}"


def _join_sentences(sentences: Sequence[str]) -> str:
    """Join sentences, adding missing full stops between them."""
    return " ".join(
        [*(sentence if sentence[-1] in ".!?" else f"{sentence}." for sentence in sentences[:-1]), *sentences[-1:]]
    )


def _draw(generator: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(generator.integers(len(choices)))]
