"""Captions of a video and questions about it, made from its events and the scene graph of its last frame.

Each question has one answer. A rolling ball may be called pushed, so no answer depends on that.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from synthetic.captions import with_article
from synthetic.scenes.language.graph import Node, SceneGraph
from synthetic.scenes.language.phrases import NUMBERS, describe_graph, noun_phrase
from synthetic.scenes.language.questions import SceneQuestion, choose_questions, make_question
from synthetic.scenes.objects.names import plural_of
from synthetic.scenes.rendering.motion import Action, Event

VERBS: dict[Action, tuple[str, str, str]] = {
    "falls": ("falls from above", "fall from above", "Does the {} fall from above?"),
    "rolls": ("rolls", "roll", "Does the {} roll?"),
    "is pushed": ("is pushed across the floor", "are pushed across the floor", "Is the {} pushed across the floor?"),
    "tips over": ("tips over", "tip over", "Does the {} tip over?"),
}
"""For one object, for several, and as a question."""
Move = tuple[Action, Node]


def video_captions(graph: SceneGraph, events: Sequence[Event]) -> tuple[str, str]:
    """Return a sentence on the events, and the same with their number and a description of the last frame."""
    by_id = graph.by_id
    clauses = []
    for event in events:
        if event.object is not None:
            node = by_id[event.object]
            name = graph.name(node)
            known = f"the {name}" if name else f"one of the {plural_of(node.class_name)}"
            subject = with_article(noun_phrase(node)) if name == node.label else known
            clauses.append(f"{subject} {VERBS[event.action][0]}")
    human = ", then ".join(clauses)
    if any(event.action == "orbits" for event in events):
        human += " while the camera orbits around the scene"
    count = len(events)
    counted = f"{NUMBERS[count].capitalize()} {'event' if count == 1 else 'events'}: {human}."
    return f"{human[0].upper()}{human[1:]}.", f"{counted} {describe_graph(graph, 'In the end the picture shows')}"


def video_questions(
    graph: SceneGraph, events: Sequence[Event], generator: np.random.Generator, most: int = 8
) -> list[SceneQuestion]:
    """Return up to `most` questions of the types `action`, `happens`, `times`, `who` and `order`."""
    by_id = graph.by_id
    moves = [(event.action, by_id[event.object]) for event in events if event.object is not None]
    camera = make_question("action", "Does the camera move?", "yes" if len(events) > len(moves) else "no", ())
    questions = (camera, *_actions(graph, moves), *_times(moves), *_who(graph, moves), *_order(graph, moves))
    return choose_questions(questions, most, generator)


def _actions(graph: SceneGraph, moves: Sequence[Move]) -> Iterator[SceneQuestion]:
    actions = {node.id: action for action, node in moves}
    for node, name in graph.named():
        action = actions.get(node.id)
        answer = f"it {VERBS[action][0]}" if action else "nothing"
        yield make_question("happens", f"What happens to the {name}?", answer, (node,))
        for other, (_, _, question) in VERBS.items():
            if (action, other) != ("rolls", "is pushed"):
                yield make_question("action", question.format(name), "yes" if action == other else "no", (node,))


def _by_action(moves: Sequence[Move]) -> Iterator[tuple[Action, list[Node]]]:
    """Yield each action with its objects, unless they are in doubt."""
    for action in VERBS:
        if action != "is pushed" or all(other != "rolls" for other, _ in moves):
            yield action, [node for other, node in moves if other == action]


def _times(moves: Sequence[Move]) -> Iterator[SceneQuestion]:
    yield make_question("times", "How many things move?", str(len(moves)), [node for _, node in moves], False)
    for action, nodes in _by_action(moves):
        yield make_question("times", f"How many things {VERBS[action][1]}?", str(len(nodes)), nodes, len(nodes) == 1)


def _who(graph: SceneGraph, moves: Sequence[Move]) -> Iterator[SceneQuestion]:
    moved = {node.id for _, node in moves}
    candidates = [(f"What {VERBS[action][0]}?", nodes) for action, nodes in _by_action(moves)]
    candidates.append(("What does not move?", [node for node in graph.nodes if node.id not in moved]))
    if len(moves) > 1:
        candidates += [("What moves first?", [moves[0][1]]), ("What moves last?", [moves[-1][1]])]
    for text, nodes in candidates:
        if len(nodes) == 1 < len(graph.nodes) and graph.name(nodes[0]):
            yield make_question("who", text, f"the {graph.name(nodes[0])}", nodes)


def _order(graph: SceneGraph, moves: Sequence[Move]) -> Iterator[SceneQuestion]:
    named = [(turn, node, graph.name(node)) for turn, (_, node) in enumerate(moves) if graph.name(node)]
    for (turn, first, name), (other, second, other_name) in itertools.permutations(named, 2):
        text = f"Does the {name} move before the {other_name}?"
        yield make_question("order", text, "yes" if turn < other else "no", (first, second))
    if len(moves) > 1 and graph.name(moves[0][1]):
        action, node = moves[0]
        yield make_question("order", "What happens first?", f"the {graph.name(node)} {VERBS[action][0]}", (node,))
