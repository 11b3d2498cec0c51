"""What is said and asked of events that are made by hand, and how often each answer is the right one."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from perception_encoder.scenes.language.graph import Graph, Node
from perception_encoder.scenes.language.narration import VERBS, ask_what_happened, tell
from perception_encoder.scenes.rendering.motion import Action, Event


def graph_of(*kinds: str) -> Graph:
    nodes = [
        Node(
            id=number,
            model=kind,
            label=kind,
            kind=kind,
            colour="",
            box=(number, 0.0, number + 1.0, 1.0),
            pixels=9,
            size=(1, 1, 1),
            position=(0, 0, 0),
            turn=(0, 0, 0, 1),
            depth=1.0,
            extent=0.5,
            on=None,
        )
        for number, kind in enumerate(kinds, start=1)
    ]
    return Graph(side=32, floor="carpet", nodes=tuple(nodes), relations=())


def events_of(*happened: tuple[Action, int | None]) -> list[Event]:
    return [Event(action=action, object=id, start=time, end=time + 1) for time, (action, id) in enumerate(happened)]


def answers(graph: Graph, events: list[Event]) -> dict[str, str]:
    asked = ask_what_happened(graph, events, np.random.default_rng(0), most=99)
    boxes = {f"the {node.kind}": node.box for node in graph.nodes}
    assert all(question.box == boxes[question.answer] for question in asked if question.type == "who")
    assert len({question.question for question in asked}) == len(asked)
    return {question.question: question.answer for question in asked}


def test_all_questions_of_a_video_made_by_hand() -> None:
    graph = graph_of("lamp", "crate", "vase")
    events = events_of(("tips over", 1), ("is pushed", 2), ("orbits", None))
    assert tell(graph, events)[0] == (
        "A lamp tips over, then a crate is pushed across the floor while the camera orbits around the scene."
    )
    assert tell(graph, events)[1].startswith("Three events: a lamp tips over, then a crate is")
    assert "In the end the picture shows a lamp, a crate and a vase on a carpet." in tell(graph, events)[1]
    found = answers(graph, events)
    expected = {
        "Does the camera move?": "yes",
        "How many things move?": "2",
        "How many things fall from above?": "0",
        "How many things roll?": "0",
        "How many things are pushed across the floor?": "1",
        "How many things tip over?": "1",
        "What tips over?": "the lamp",
        "What is pushed across the floor?": "the crate",
        "What does not move?": "the vase",
        "What moves first?": "the lamp",
        "What moves last?": "the crate",
        "What happens first?": "the lamp tips over",
        "Does the lamp move before the crate?": "yes",
        "Does the crate move before the lamp?": "no",
        "What happens to the lamp?": "it tips over",
        "What happens to the crate?": "it is pushed across the floor",
        "What happens to the vase?": "nothing",
    }
    for name, done in (("lamp", "tips over"), ("crate", "is pushed"), ("vase", None)):
        expected |= {asks.format(name): "yes" if action == done else "no" for action, (_, _, asks) in VERBS.items()}
    assert found == expected


def test_what_rolls_is_not_asked_to_be_pushed() -> None:
    found = answers(graph_of("ball", "crate"), events_of(("rolls", 1), ("is pushed", 2)))
    assert found["Does the ball roll?"] == found["Is the crate pushed across the floor?"] == "yes"
    assert not found.keys() & {
        "Is the ball pushed across the floor?",
        "What is pushed across the floor?",
        "How many things are pushed across the floor?",
    }


def test_things_without_a_name_are_counted_only() -> None:
    graph = graph_of("cup", "cup")
    events = events_of(("falls", 2))
    assert tell(graph, events)[0] == "One of the cups falls from above."
    assert set(answers(graph, events)) == {
        "Does the camera move?",
        "How many things move?",
        *(f"How many things {several}?" for _, several, _ in VERBS.values()),
    }


def test_no_answer_is_the_rule() -> None:
    right: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for number in range(300):
        generator = np.random.default_rng(number)
        things = [f"thing{letter}" for letter in "abcd"[: generator.integers(1, 5)]]
        movers = generator.permutation(len(things))[: generator.integers(1, 4)]
        actions = [list(VERBS)[int(generator.integers(4))] for _ in movers]
        happened = [(action, int(mover) + 1) for action, mover in zip(actions, movers, strict=True)]
        events = events_of(*happened, *([("orbits", None)] if generator.random() < 0.4 else []))
        for question in ask_what_happened(graph_of(*things), events, generator, most=6):
            right[question.type][question.answer] += 1
    assert right.keys() == {"action", "happens", "times", "who", "order"}
    for kind, counts in right.items():
        assert max(counts.values()) < 0.6 * counts.total(), (kind, counts)
