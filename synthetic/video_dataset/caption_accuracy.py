"""Precision and recall of captions against the truth of their rendered videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from perception_encoder.evaluation.statistics.scores import ItemScores
from synthetic.video_dataset.truth import MentionReader, SceneTruth, find_actions, split_sentences

OBJECTS, COLOURS, ACTIONS, EVENTS = "objects", "colours", "actions", "events"
KINDS = (OBJECTS, COLOURS, ACTIONS, EVENTS)
"""Classes; pairs of class and colour; actions; pairs of class and action."""
SHARES = PRECISION, RECALL = "precision", "recall"
"""The share of a caption's claims that are true, and the share of the true facts that the caption mentions."""

Claims = dict[str, set[tuple[str, ...]]]
"""By kind."""


def claims_of(caption: str, reader: MentionReader) -> Claims:
    """Return a caption's claims of each of `KINDS`; the first object of a sentence is the one that acts."""
    claims: Claims = {kind: set() for kind in KINDS}
    for sentence in split_sentences(caption):
        mentions, actions = reader.find(sentence), find_actions(sentence)
        claims[OBJECTS] |= {(mention.name,) for mention in mentions}
        claims[COLOURS] |= {(mention.name, mention.colour) for mention in mentions if mention.colour}
        claims[ACTIONS] |= {(action,) for action in actions}
        claims[EVENTS] |= {(mention.name, action) for mention in mentions[:1] for action in actions[:1]}
    return claims


def facts_of(truth: SceneTruth) -> Claims:
    """Return the true facts of a video, of each of `KINDS`."""
    return {
        OBJECTS: {(name,) for name in truth.colours},
        COLOURS: {(name, colour) for name, colours in truth.colours.items() for colour in colours},
        ACTIONS: {(action,) for _, action in truth.events},
        EVENTS: set(truth.events),
    }


def score_captions(
    captions: Mapping[str, str], truths: Mapping[str, SceneTruth], classes: Sequence[str]
) -> list[ItemScores]:
    """Return "objects precision", "objects recall" and so on, counted over all videos.

    `captions`, `truths`: by the video's key. `classes`: all that a caption may name. A score with nothing to
    count, such as the precision of colours in captions without colours, is left out.
    """
    reader, names = MentionReader(classes), list(captions)
    claims = [claims_of(captions[name], reader) for name in names]
    facts = [facts_of(truths[name]) for name in names]
    scores = []
    for kind in KINDS:
        for share, counted, other in ((PRECISION, claims, facts), (RECALL, facts, claims)):
            entries = [
                (owner, claim in reference[kind])
                for owner, (claimed, reference) in enumerate(zip(counted, other, strict=True))
                for claim in sorted(claimed[kind])
            ]
            if entries:
                owners, values = (np.array(column) for column in zip(*entries, strict=True))
                scores.append(ItemScores.of(f"{kind} {share}", values, names, owners=owners))
    return scores
