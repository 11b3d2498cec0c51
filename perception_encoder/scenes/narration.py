"""Say and ask what happens in a video, out of its events and the graph of its last frame.

As in pictures, only what has one answer is asked. A rolling ball may be called pushed, so no answer rests on that.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from perception_encoder.data.captions import with_article
from perception_encoder.scenes.graph import Graph, Node
from perception_encoder.scenes.language import description, noun, number_word
from perception_encoder.scenes.motion import Action, Event
from perception_encoder.scenes.names import plural_of
from perception_encoder.scenes.questions import Question, choose

VERBS: dict[Action, tuple[str, str, str]] = {
    "falls": ("falls from above", "fall from above", "Does the {} fall from above?"),
    "rolls": ("rolls", "roll", "Does the {} roll?"),
    "is pushed": ("is pushed across the floor", "are pushed across the floor", "Is the {} pushed across the floor?"),
    "tips over": ("tips over", "tip over", "Does the {} tip over?"),
}
"""Of one thing, of several, and asked."""


def tell(graph: Graph, events: Sequence[Event]) -> tuple[str, str]:
    """What happens, in a sentence; and the same with how many events there are and what is seen in the end."""
    by_id = {node.id: node for node in graph.nodes}
    said = []
    for event in events:
        if event.object is not None:
            node = by_id[event.object]
            name = graph.name(node)
            known = f"the {name}" if name else f"one of the {plural_of(node.kind)}"
            subject = with_article(noun(node)) if name == node.label else known
            said.append(f"{subject} {VERBS[event.action][0]}")
    human = ", then ".join(said)
    if any(event.action == "orbits" for event in events):
        human += " while the camera orbits around the scene"
    count = len(events)
    things = f"{number_word(count).capitalize()} {'event' if count == 1 else 'events'}: {human}."
    return f"{human[0].upper()}{human[1:]}.", f"{things} {description(graph, 'In the end the picture shows')}"


def ask_what_happened(
    graph: Graph, events: Sequence[Event], generator: np.random.Generator, most: int = 8
) -> list[Question]:
    """Up to `most` questions: `action`, `happens`, `times`, `who` and `order`; frames are those of the last picture."""
    by_id = {node.id: node for node in graph.nodes}
    moves = [(event, by_id[event.object]) for event in events if event.object is not None]
    orbits = "yes" if len(events) > len(moves) else "no"
    camera = Question(type="action", question="Does the camera move?", answer=orbits, box=None, objects=())
    asked = (camera, *_actions(graph, moves), *_times(moves), *_who(graph, moves), *_order(graph, moves))
    return choose(asked, most, generator)


def _actions(graph: Graph, moves: Sequence[tuple[Event, Node]]) -> Iterator[Question]:
    done = {node.id: event.action for event, node in moves}
    for node in graph.nodes:
        name, action = graph.name(node), done.get(node.id)
        if not name:
            continue
        answer = f"it {VERBS[action][0]}" if action else "nothing"
        text = f"What happens to the {name}?"
        yield Question(type="happens", question=text, answer=answer, box=node.box, objects=(node.id,))
        for other, (_, _, asks) in VERBS.items():
            if (action, other) != ("rolls", "is pushed"):
                answer = "yes" if action == other else "no"
                text = asks.format(name)
                yield Question(type="action", question=text, answer=answer, box=node.box, objects=(node.id,))


def _times(moves: Sequence[tuple[Event, Node]]) -> Iterator[Question]:
    counts = Counter(event.action for event, _ in moves)
    ids = tuple(node.id for _, node in moves)
    yield Question(type="times", question="How many things move?", answer=str(len(ids)), box=None, objects=ids)
    for action, (_, several, _) in VERBS.items():
        if action != "is pushed" or not counts["rolls"]:
            alike = [node for event, node in moves if event.action == action]
            yield Question(
                type="times",
                question=f"How many things {several}?",
                answer=str(len(alike)),
                box=alike[0].box if len(alike) == 1 else None,
                objects=tuple(node.id for node in alike),
            )


def _who(graph: Graph, moves: Sequence[tuple[Event, Node]]) -> Iterator[Question]:
    counts = Counter(event.action for event, _ in moves)
    moved = {node.id for _, node in moves}
    still = [node for node in graph.nodes if node.id not in moved]
    asked = [(f"What {VERBS[event.action][0]}?", node) for event, node in moves if counts[event.action] == 1]
    asked = [each for each in asked if "pushed" not in each[0] or not counts["rolls"]]
    if len(moves) > 1:
        asked += [("What moves first?", moves[0][1]), ("What moves last?", moves[-1][1])]
    if len(still) == 1:
        asked.append(("What does not move?", still[0]))
    for text, node in asked:
        if len(graph.nodes) > 1 and graph.name(node):
            answer = f"the {graph.name(node)}"
            yield Question(type="who", question=text, answer=answer, box=node.box, objects=(node.id,))


def _order(graph: Graph, moves: Sequence[tuple[Event, Node]]) -> Iterator[Question]:
    for (place, (_, first)), (other, (_, second)) in itertools.permutations(enumerate(moves), 2):
        if graph.name(first) and graph.name(second):
            text = f"Does the {graph.name(first)} move before the {graph.name(second)}?"
            answer, ids = "yes" if place < other else "no", (first.id, second.id)
            yield Question(type="order", question=text, answer=answer, box=first.box, objects=ids)
    if len(moves) > 1 and graph.name(moves[0][1]):
        event, node = moves[0]
        answer = f"the {graph.name(node)} {VERBS[event.action][0]}"
        yield Question(type="order", question="What happens first?", answer=answer, box=node.box, objects=(node.id,))
