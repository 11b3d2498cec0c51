"""Ask about a picture, out of its graph: yes or no, how many, which, where, what colour, and comparisons.

Only what has one answer is asked. Each answer has the frame of the thing that it is about, if it is about one, and the
ids of all things that it rests on, so that answers can be checked and looked up.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from perception_encoder.data.captions import with_article
from perception_encoder.scenes.graph import OPPOSITE, Graph, Node
from perception_encoder.scenes.language import SAID
from perception_encoder.scenes.names import family_of, plural_of

TALLER, NEARER = 1.25, 0.6  # times as tall; of both extents: what is clearly so
THIRDS = ("on the left", "in the middle", "on the right")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a picture and its only answer."""

    type: str
    """`exists`, `count`, `which`, `where`, `colour`, `compare` or `relation`."""
    question: str
    answer: str
    box: tuple[float, float, float, float] | None
    """The frame of the thing that the answer is about, in pixels; None where it is about none or several."""
    objects: tuple[int, ...]
    """Ids of the things that the answer rests on."""


def ask(graph: Graph, kinds: Sequence[str], generator: np.random.Generator, most: int = 8) -> list[Question]:
    """Up to `most` questions, as many types as there are; `kinds`: what might be asked for though it is not there."""
    asked = (*_count(graph), *_exists(graph, kinds, generator), *_about_one(graph), *_about_two(graph))
    return choose(asked, most, generator)


def choose(asked: Sequence[Question], most: int, generator: np.random.Generator) -> list[Question]:
    """Up to `most` questions: the types take turns, and in each type the answers, so that none is the rule."""
    chosen = [asked[number] for number in generator.permutation(len(asked))]
    for alike in ("type", "answer"), ("type",):
        groups: dict[tuple[str, ...], list[Question]] = {}
        for question in chosen:
            groups.setdefault(tuple(getattr(question, name) for name in alike), []).append(question)
        order = [list(groups.values())[number] for number in generator.permutation(len(groups))]
        rows = itertools.zip_longest(*order)
        chosen = [question for row in rows for question in row if question is not None]
    return chosen[:most]


def _ids(nodes: Sequence[Node]) -> tuple[int, ...]:
    return tuple(node.id for node in nodes)


def _count(graph: Graph) -> Iterator[Question]:
    for kind, count in graph.counts.items():
        alike = [node for node in graph.nodes if node.kind == kind]
        box = alike[0].box if count == 1 else None
        text = f"How many {plural_of(kind)} are there?"
        yield Question(type="count", question=text, answer=str(count), box=box, objects=_ids(alike))
    text = "How many things are there?"
    everything = _ids(graph.nodes)
    yield Question(type="count", question=text, answer=str(len(everything)), box=None, objects=everything)


def _exists(graph: Graph, kinds: Sequence[str], generator: np.random.Generator) -> Iterator[Question]:
    there = {family_of(kind) for kind in graph.counts}
    absent = [kind for kind in kinds if family_of(kind) not in there]
    for kind, count in graph.counts.items():
        alike = [node for node in graph.nodes if node.kind == kind]
        text = f"Is there {with_article(kind)}?"
        box = alike[0].box if count == 1 else None
        yield Question(type="exists", question=text, answer="yes", box=box, objects=_ids(alike))
        if absent:  # as many that are not there
            other = absent[int(generator.integers(len(absent)))]
            text = f"Is there {with_article(other)}?"
            yield Question(type="exists", question=text, answer="no", box=None, objects=())


def _about_one(graph: Graph) -> Iterator[Question]:
    by_id = {node.id: node for node in graph.nodes}
    for node in graph.nodes:
        name = graph.name(node)
        if not name:
            continue
        if node.colour and name == node.label and node.colour not in name:
            text = f"What colour is the {name}?"
            yield Question(type="colour", question=text, answer=node.colour, box=node.box, objects=(node.id,))
        if node.on is not None and graph.name(by_id[node.on]):
            below = f"on the {graph.name(by_id[node.on])}"
            text = f"Where is the {name}?"
            yield Question(type="where", question=text, answer=below, box=node.box, objects=(node.id, node.on))
        elif (third := _third(graph, node)) is not None:
            text = f"In which part of the picture is the {name}?"
            yield Question(type="where", question=text, answer=THIRDS[third], box=node.box, objects=(node.id,))
        for relation in SAID:
            others = graph.related(relation, node.id)
            asked = f"What is {SAID[relation]} the {name}?"
            if len(others) == 1 and graph.name(others[0]):
                answer = f"the {graph.name(others[0])}"
                ids = (others[0].id, node.id)
                yield Question(type="which", question=asked, answer=answer, box=others[0].box, objects=ids)


def _third(graph: Graph, node: Node) -> int | None:
    """The third of the picture that a frame's middle is in, if it is not near its border."""
    place = (node.box[0] + node.box[2]) / 2 / graph.side * 3
    return int(place) if abs(place - round(place)) > 0.2 or round(place) in (0, 3) else None


def _about_two(graph: Graph) -> Iterator[Question]:
    named = [(node, graph.name(node)) for node in graph.nodes if graph.name(node)]
    for first, name in named:
        for second, other in named:
            if first.id == second.id:
                continue
            ids: tuple[int, ...] = (first.id, second.id)
            for relation, opposite in OPPOSITE.items():
                said = (first.id, relation, second.id) in graph.relations
                if said or (first.id, opposite, second.id) in graph.relations:
                    text, answer = f"Is the {name} {SAID[relation]} the {other}?", "yes" if said else "no"
                    yield Question(type="relation", question=text, answer=answer, box=first.box, objects=ids)
            if first.id < second.id:
                yield from _compare(first, name, second, other)
    counts = list(graph.counts.items())
    for (kind, count), (other, others) in itertools.permutations(counts, 2):
        if count == others:
            continue
        ids = _ids([node for node in graph.nodes if node.kind in (kind, other)])
        text, answer = f"Are there more {plural_of(kind)} than {plural_of(other)}?", "yes" if count > others else "no"
        yield Question(type="compare", question=text, answer=answer, box=None, objects=ids)


def _compare(first: Node, name: str, second: Node, other: str) -> Iterator[Question]:
    ids = (first.id, second.id)
    tall, short = (first, second) if first.size[2] > second.size[2] else (second, first)
    if tall.size[2] > TALLER * short.size[2]:
        answer = f"the {name if tall is first else other}"
        text = f"Which is taller, the {name} or the {other}?"
        yield Question(type="compare", question=text, answer=answer, box=tall.box, objects=ids)
    near, far = (first, second) if first.depth < second.depth else (second, first)
    if far.depth - near.depth > NEARER * (first.extent + second.extent):
        answer = f"the {name if near is first else other}"
        text = f"Which is closer, the {name} or the {other}?"
        yield Question(type="compare", question=text, answer=answer, box=near.box, objects=ids)
