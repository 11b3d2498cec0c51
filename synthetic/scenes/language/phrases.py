"""Captions of an image, made from its scene graph: short ones, single relations, and a description."""

from __future__ import annotations

import numpy as np

from synthetic.captions import COLOURS, with_article
from synthetic.scenes.language.graph import Node, SceneGraph
from synthetic.scenes.objects.names import plural_of

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
RELATION_PHRASES = {
    "left of": "to the left of",
    "right of": "to the right of",
    "behind": "behind",
    "in front of": "in front of",
    "on": "on",
}
OPENINGS = ("", "a photo of ", "a picture of ", "a rendering of ", "a view of ")


def image_captions(graph: SceneGraph, generator: np.random.Generator) -> list[str]:
    """Return three captions: the objects, one relation (if any can be told), and a description."""
    opening = OPENINGS[int(generator.integers(len(OPENINGS)))]
    objects = f"{opening}{join_phrases(count_phrases(graph))}{_floor_phrase(graph)}"
    relation = _relation_caption(graph, generator)
    return [objects, *([relation] if relation else []), describe_graph(graph)]


def _relation_caption(graph: SceneGraph, generator: np.random.Generator) -> str:
    """One relation between two objects that can be told apart; "" if none exists."""
    nodes = {node.id: node for node, _ in graph.named()}
    relations = [relation for relation in graph.relations if relation[0] in nodes and relation[2] in nodes]
    if not relations:
        return ""
    first, relation, second = relations[int(generator.integers(len(relations)))]
    phrases = [with_article(noun_phrase(nodes[number])) for number in (first, second)]
    return f" {RELATION_PHRASES[relation]} ".join(phrases)


def describe_graph(graph: SceneGraph, opening: str = "The picture shows") -> str:
    """Return several sentences: the objects and the floor, the relations, the colours, and the counts."""
    sentences = [f"{opening} {join_phrases(count_phrases(graph))}{_floor_phrase(graph)}."]
    names = {node.id: name for node, name in graph.named()}
    for first, relation, second in graph.relations:
        if relation in ("on", "left of", "behind") and first in names and second in names:
            sentences.append(f"The {names[first]} is {RELATION_PHRASES[relation]} the {names[second]}.")
    coloured = [node for node in graph.nodes if node.colour and graph.name(node) == node.label]
    sentences += [f"The {node.label} is {node.colour}." for node in coloured if node.colour not in node.label]
    if max(graph.counts.values()) > 1:
        counts = [f"{NUMBERS[n]} {plural_of(name) if n > 1 else name}" for name, n in graph.counts.items()]
        sentences.append(f"In all there {'are' if len(graph.nodes) > 1 else 'is'} {join_phrases(counts)}.")
    return " ".join(sentences)


def count_phrases(graph: SceneGraph) -> list[str]:
    """Return the objects by class: `two chairs`, `a red table`; the classes in the order of their first object."""
    phrases = []
    for name, count in graph.counts.items():
        first = graph.of_class(name)[0]
        phrases.append(with_article(noun_phrase(first)) if count == 1 else f"{NUMBERS[count]} {plural_of(name)}")
    return phrases


def noun_phrase(node: Node) -> str:
    """Return the label of an object, after its colour if it has one."""
    coloured = set(COLOURS) & set(node.label.split())  # a white lily is not called green
    return f"{node.colour} {node.label}" if node.colour and not coloured else node.label


def join_phrases(phrases: list[str]) -> str:
    """Return phrases as a list in a sentence: "a cup, a lamp and two chairs"."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _floor_phrase(graph: SceneGraph) -> str:
    return " on grass" if graph.floor == "grass" else f" on a {graph.floor}"
