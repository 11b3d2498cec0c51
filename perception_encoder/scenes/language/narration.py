"""Say and ask what happens in a video, out of its events and the graph of its last frame.

As in pictures, only what has one answer is asked. A rolling ball may be called pushed, so no answer rests on that.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from perception_encoder.data.captions import with_article
from perception_encoder.scenes.language.graph import Graph, Node
from perception_encoder.scenes.language.phrases import description, noun, number_word
from perception_encoder.scenes.language.questions import Question, about, choose
from perception_encoder.scenes.objects.names import plural_of
from perception_encoder.scenes.rendering.motion import Action, Event

VERBS: dict[Action, tuple[str, str, str]] = {
    "falls": ("falls from above", "fall from above", "Does the {} fall from above?"),
    "rolls": ("rolls", "roll", "Does the {} roll?"),
    "is pushed": ("is pushed across the floor", "are pushed across the floor", "Is the {} pushed across the floor?"),
    "tips over": ("tips over", "tip over", "Does the {} tip over?"),
}
"""Of one thing, of several, and asked."""
Move = tuple[Action, Node]


def tell(graph: Graph, events: Sequence[Event]) -> tuple[str, str]:
    """What happens, in a sentence; and the same with how many events there are and what is seen in the end."""
    by_id = graph.by_id
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
    by_id = graph.by_id
    moves = [(event.action, by_id[event.object]) for event in events if event.object is not None]
    camera = about("action", "Does the camera move?", "yes" if len(events) > len(moves) else "no", ())
    asked = (camera, *_actions(graph, moves), *_times(moves), *_who(graph, moves), *_order(graph, moves))
    return choose(asked, most, generator)


def _actions(graph: Graph, moves: Sequence[Move]) -> Iterator[Question]:
    done = {node.id: action for action, node in moves}
    for node, name in graph.named():
        action = done.get(node.id)
        yield about(
            "happens", f"What happens to the {name}?", f"it {VERBS[action][0]}" if action else "nothing", (node,)
        )
        for other, (_, _, asks) in VERBS.items():
            if (action, other) != ("rolls", "is pushed"):
                yield about("action", asks.format(name), "yes" if action == other else "no", (node,))


def _alike(moves: Sequence[Move]) -> Iterator[tuple[Action, list[Node]]]:
    """The things that each action happens to, where it is beyond doubt."""
    for action in VERBS:
        if action != "is pushed" or all(other != "rolls" for other, _ in moves):
            yield action, [node for other, node in moves if other == action]


def _times(moves: Sequence[Move]) -> Iterator[Question]:
    yield about("times", "How many things move?", str(len(moves)), [node for _, node in moves], False)
    for action, nodes in _alike(moves):
        yield about("times", f"How many things {VERBS[action][1]}?", str(len(nodes)), nodes, len(nodes) == 1)


def _who(graph: Graph, moves: Sequence[Move]) -> Iterator[Question]:
    moved = {node.id for _, node in moves}
    asked = [(f"What {VERBS[action][0]}?", nodes) for action, nodes in _alike(moves)]
    asked.append(("What does not move?", [node for node in graph.nodes if node.id not in moved]))
    if len(moves) > 1:
        asked += [("What moves first?", [moves[0][1]]), ("What moves last?", [moves[-1][1]])]
    for text, nodes in asked:
        if len(nodes) == 1 < len(graph.nodes) and graph.name(nodes[0]):
            yield about("who", text, f"the {graph.name(nodes[0])}", nodes)


def _order(graph: Graph, moves: Sequence[Move]) -> Iterator[Question]:
    named = [(place, node, graph.name(node)) for place, (_, node) in enumerate(moves) if graph.name(node)]
    for (place, first, name), (other, second, after) in itertools.permutations(named, 2):
        text = f"Does the {name} move before the {after}?"
        yield about("order", text, "yes" if place < other else "no", (first, second))
    if len(moves) > 1 and graph.name(moves[0][1]):
        action, node = moves[0]
        yield about("order", "What happens first?", f"the {graph.name(node)} {VERBS[action][0]}", (node,))
