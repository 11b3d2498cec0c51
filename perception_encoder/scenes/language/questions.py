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
from perception_encoder.scenes.language.graph import OPPOSITE, Graph, Node
from perception_encoder.scenes.language.phrases import SAID
from perception_encoder.scenes.objects.names import family_of, plural_of

TALLER, NEARER = 1.25, 0.6  # times as tall; of both extents: what is clearly so
THIRDS = ("on the left", "in the middle", "on the right")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a picture or a video and its only answer."""

    type: str
    """`exists`, `count`, `which`, `where`, `colour`, `compare` or `relation`; of a video see `narration`."""
    question: str
    answer: str
    box: tuple[float, float, float, float] | None
    """The frame of the thing that the answer is about, in pixels, in a video's last frame; None: of none or several."""
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


def about(type: str, question: str, answer: str, nodes: Sequence[Node], boxed: bool = True) -> Question:
    """A question whose answer rests on things, and is about the first of them if it is `boxed`."""
    box = nodes[0].box if boxed and nodes else None
    return Question(type=type, question=question, answer=answer, box=box, objects=tuple(node.id for node in nodes))


def _count(graph: Graph) -> Iterator[Question]:
    for kind, count in graph.counts.items():
        yield about("count", f"How many {plural_of(kind)} are there?", str(count), graph.of_kind(kind), count == 1)
    yield about("count", "How many things are there?", str(len(graph.nodes)), graph.nodes, False)


def _exists(graph: Graph, kinds: Sequence[str], generator: np.random.Generator) -> Iterator[Question]:
    there = {family_of(kind) for kind in graph.counts}
    absent = [kind for kind in kinds if family_of(kind) not in there]
    for kind, count in graph.counts.items():
        yield about("exists", f"Is there {with_article(kind)}?", "yes", graph.of_kind(kind), count == 1)
        if absent:  # as many that are not there
            other = absent[int(generator.integers(len(absent)))]
            yield about("exists", f"Is there {with_article(other)}?", "no", ())


def _about_one(graph: Graph) -> Iterator[Question]:
    for node, name in graph.named():
        below = graph.by_id[node.on] if node.on is not None else None
        if node.colour and name == node.label and node.colour not in name:
            yield about("colour", f"What colour is the {name}?", node.colour, (node,))
        if below is not None and graph.name(below):
            yield about("where", f"Where is the {name}?", f"on the {graph.name(below)}", (node, below))
        elif (third := _third(graph, node)) is not None:
            yield about("where", f"In which part of the picture is the {name}?", THIRDS[third], (node,))
        for relation, said in SAID.items():
            others = graph.related(relation, node.id)
            if len(others) == 1 and graph.name(others[0]):
                yield about("which", f"What is {said} the {name}?", f"the {graph.name(others[0])}", (others[0], node))


def _third(graph: Graph, node: Node) -> int | None:
    """The third of the picture that a frame's middle is in, if it is not near its border."""
    place = (node.box[0] + node.box[2]) / 2 / graph.side * 3
    return int(place) if abs(place - round(place)) > 0.2 or round(place) in (0, 3) else None


def _about_two(graph: Graph) -> Iterator[Question]:
    for (first, name), (second, other) in itertools.permutations(graph.named(), 2):
        for relation, opposite in OPPOSITE.items():
            said = (first.id, relation, second.id) in graph.relations
            if said or (first.id, opposite, second.id) in graph.relations:
                text = f"Is the {name} {SAID[relation]} the {other}?"
                yield about("relation", text, "yes" if said else "no", (first, second))
        names = " or ".join(f"the {each}" for each in sorted((name, other)))
        if first.size[2] > TALLER * second.size[2]:
            yield about("compare", f"Which is taller, {names}?", f"the {name}", (first, second))
        if second.depth - first.depth > NEARER * (first.extent + second.extent):
            yield about("compare", f"Which is closer, {names}?", f"the {name}", (first, second))
    for (kind, count), (other, others) in itertools.permutations(graph.counts.items(), 2):
        if count != others:
            text = f"Are there more {plural_of(kind)} than {plural_of(other)}?"
            nodes = (*graph.of_kind(kind), *graph.of_kind(other))
            yield about("compare", text, "yes" if count > others else "no", nodes, False)
