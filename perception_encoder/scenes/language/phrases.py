"""Say what a picture shows, out of its graph: short captions, single relations, and a description."""

from __future__ import annotations

import numpy as np

from perception_encoder.data.captions import COLOURS, with_article
from perception_encoder.scenes.language.graph import Graph, Node
from perception_encoder.scenes.objects.names import plural_of

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
SAID = {
    "left of": "to the left of",
    "right of": "to the right of",
    "behind": "behind",
    "in front of": "in front of",
    "on": "on",
}
OPENINGS = ("", "a photo of ", "a picture of ", "a rendering of ", "a view of ")


def number_word(number: int) -> str:
    """A number in words, as far as twelve."""
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


def listed(parts: list[str]) -> str:
    """Parts with commas and an `and`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def noun(node: Node) -> str:
    """What a thing is called, with its colour if it has one name."""
    coloured = set(COLOURS) & set(node.label.split())  # a white lily is not called green
    return f"{node.colour} {node.label}" if node.colour and not coloured else node.label


def counted(graph: Graph) -> list[str]:
    """All things by kind: `two chairs`, `a red table`; the kinds in the order of their first thing."""
    said = []
    for kind, count in graph.counts.items():
        first = graph.of_kind(kind)[0]
        said.append(with_article(noun(first)) if count == 1 else f"{number_word(count)} {plural_of(kind)}")
    return said


def captions(graph: Graph, generator: np.random.Generator) -> list[str]:
    """Three captions: what there is, one relation (where there is one to tell), and all at length."""
    opening = OPENINGS[int(generator.integers(len(OPENINGS)))]
    said = [f"{opening}{listed(counted(graph))}{_floor(graph)}"]
    relation = relation_caption(graph, generator)
    return [*said, *([relation] if relation else []), description(graph)]


def _floor(graph: Graph) -> str:
    return " on grass" if graph.floor == "grass" else f" on a {graph.floor}"


def relation_caption(graph: Graph, generator: np.random.Generator) -> str:
    """One relation between two things that can be told apart; empty where there is none."""
    told = {node.id: node for node, _ in graph.named()}
    relations = [relation for relation in graph.relations if relation[0] in told and relation[2] in told]
    if not relations:
        return ""
    first, relation, second = relations[int(generator.integers(len(relations)))]
    return f"{with_article(noun(told[first]))} {SAID[relation]} {with_article(noun(told[second]))}"


def description(graph: Graph, opening: str = "The picture shows") -> str:
    """Several sentences: what stands on the floor, what is on what, and where things are to each other."""
    counts = [f"{number_word(count)} {plural_of(kind) if count > 1 else kind}" for kind, count in graph.counts.items()]
    sentences = [f"{opening} {listed(counted(graph))}{_floor(graph)}."]
    names = {node.id: name for node, name in graph.named()}
    for first, relation, second in graph.relations:
        if relation in ("on", "left of", "behind") and first in names and second in names:
            sentences.append(f"The {names[first]} is {SAID[relation]} the {names[second]}.")
    coloured = [node for node in graph.nodes if node.colour and graph.name(node) == node.label]
    sentences += [f"The {node.label} is {node.colour}." for node in coloured if node.colour not in node.label]
    if max(graph.counts.values()) > 1:
        sentences.append(f"In all there {'are' if len(graph.nodes) > 1 else 'is'} {listed(counts)}.")
    return " ".join(sentences)
