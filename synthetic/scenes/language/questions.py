"""Questions about an image, made from its scene graph: yes or no, how many, which, where, what colour, comparisons.

Each question has one answer, the box of the object that the answer is about, if it is about one, and the ids of all
objects that the answer depends on, so that answers can be checked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from synthetic.captions import with_article
from synthetic.scenes.language.graph import OPPOSITE, Box, Node, SceneGraph
from synthetic.scenes.language.phrases import RELATION_PHRASES
from synthetic.scenes.objects.names import family_of, plural_of

TALLER, NEARER = 1.25, 0.6  # an object is clearly taller (times the other's height), or nearer (of both extents)
THIRDS = ("on the left", "in the middle", "on the right")


@dataclass(frozen=True, kw_only=True)
class SceneQuestion:
    """A question about an image or a video and its only answer."""

    type: str
    """`exists`, `count`, `which`, `where`, `colour`, `compare` or `relation`; for videos see `narration`."""
    question: str
    answer: str
    box: Box | None
    """Box in pixels of the object that the answer is about, in a video's last frame; None if not exactly one."""
    objects: tuple[int, ...]
    """Ids of the objects that the answer depends on."""


def image_questions(
    graph: SceneGraph, classes: Sequence[str], generator: np.random.Generator, most: int = 8
) -> list[SceneQuestion]:
    """Return up to `most` questions of as many types as possible; `classes`: names to ask for, in the image or not."""
    questions = (*_count(graph), *_exists(graph, classes, generator), *_about_one(graph), *_about_two(graph))
    return choose_questions(questions, most, generator)


def choose_questions(
    questions: Sequence[SceneQuestion], most: int, generator: np.random.Generator
) -> list[SceneQuestion]:
    """Choose up to `most` questions; types take turns, and answers within a type, so that no answer dominates."""
    order = [questions[number] for number in generator.permutation(len(questions))]
    for fields in ("type", "answer"), ("type",):
        groups: dict[tuple[str, ...], list[SceneQuestion]] = {}
        for question in order:
            groups.setdefault(tuple(getattr(question, name) for name in fields), []).append(question)
        turns = [list(groups.values())[number] for number in generator.permutation(len(groups))]
        rows = itertools.zip_longest(*turns)
        order = [question for row in rows for question in row if question is not None]
    return order[:most]


def make_question(topic: str, question: str, answer: str, nodes: Sequence[Node], boxed: bool = True) -> SceneQuestion:
    """Make a question whose answer depends on these objects, and is about the first of them if `boxed`."""
    box = nodes[0].box if boxed and nodes else None
    return SceneQuestion(
        type=topic, question=question, answer=answer, box=box, objects=tuple(node.id for node in nodes)
    )


def _count(graph: SceneGraph) -> Iterator[SceneQuestion]:
    for name, count in graph.counts.items():
        nodes = graph.of_class(name)
        yield make_question("count", f"How many {plural_of(name)} are there?", str(count), nodes, count == 1)
    yield make_question("count", "How many things are there?", str(len(graph.nodes)), graph.nodes, False)


def _exists(graph: SceneGraph, classes: Sequence[str], generator: np.random.Generator) -> Iterator[SceneQuestion]:
    present = {family_of(name) for name in graph.counts}
    absent = [name for name in classes if family_of(name) not in present]
    for name, count in graph.counts.items():
        yield make_question("exists", f"Is there {with_article(name)}?", "yes", graph.of_class(name), count == 1)
        if absent:  # as many questions with the answer no
            other = absent[int(generator.integers(len(absent)))]
            yield make_question("exists", f"Is there {with_article(other)}?", "no", ())


def _about_one(graph: SceneGraph) -> Iterator[SceneQuestion]:
    for node, name in graph.named():
        below = graph.by_id[node.on] if node.on is not None else None
        if node.colour and name == node.label and node.colour not in name:
            yield make_question("colour", f"What colour is the {name}?", node.colour, (node,))
        if below is not None and graph.name(below):
            yield make_question("where", f"Where is the {name}?", f"on the {graph.name(below)}", (node, below))
        elif (third := _third(graph, node)) is not None:
            yield make_question("where", f"In which part of the picture is the {name}?", THIRDS[third], (node,))
        for relation, phrase in RELATION_PHRASES.items():
            others = graph.related(relation, node.id)
            if len(others) == 1 and (answer := graph.name(others[0])):
                yield make_question("which", f"What is {phrase} the {name}?", f"the {answer}", (others[0], node))


def _third(graph: SceneGraph, node: Node) -> int | None:
    """The third of the image that holds a box's middle; None near the border of two thirds."""
    thirds = (node.box[0] + node.box[2]) / 2 / graph.side * 3
    return int(thirds) if abs(thirds - round(thirds)) > 0.2 or round(thirds) in (0, 3) else None


def _about_two(graph: SceneGraph) -> Iterator[SceneQuestion]:
    for (first, name), (second, other) in itertools.permutations(graph.named(), 2):
        for relation, opposite in OPPOSITE.items():
            holds = (first.id, relation, second.id) in graph.relations
            if holds or (first.id, opposite, second.id) in graph.relations:
                text = f"Is the {name} {RELATION_PHRASES[relation]} the {other}?"
                yield make_question("relation", text, "yes" if holds else "no", (first, second))
        names = " or ".join(f"the {item}" for item in sorted((name, other)))
        if first.size[2] > TALLER * second.size[2]:
            yield make_question("compare", f"Which is taller, {names}?", f"the {name}", (first, second))
        if second.depth - first.depth > NEARER * (first.extent + second.extent):
            yield make_question("compare", f"Which is closer, {names}?", f"the {name}", (first, second))
    for (name, count), (other, others) in itertools.permutations(graph.counts.items(), 2):
        if count != others:
            text = f"Are there more {plural_of(name)} than {plural_of(other)}?"
            nodes = (*graph.of_class(name), *graph.of_class(other))
            yield make_question("compare", text, "yes" if count > others else "no", nodes, False)
