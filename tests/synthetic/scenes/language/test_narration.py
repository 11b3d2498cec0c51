"""Captions and questions of events made by hand, and how often each answer is right."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from synthetic.scenes.language.graph import Node, SceneGraph
from synthetic.scenes.language.narration import VERBS, video_captions, video_questions
from synthetic.scenes.rendering.motion import Action, Event


def graph_of(*classes: str) -> SceneGraph:
    nodes = [
        Node(
            id=number,
            model=name,
            label=name,
            class_name=name,
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
        for number, name in enumerate(classes, start=1)
    ]
    return SceneGraph(side=32, floor="carpet", nodes=tuple(nodes), relations=())


def events_of(*happened: tuple[Action, int | None]) -> list[Event]:
    return [Event(action=action, object=id, start=time, end=time + 1) for time, (action, id) in enumerate(happened)]


def answers(graph: SceneGraph, events: list[Event]) -> dict[str, str]:
    questions = video_questions(graph, events, np.random.default_rng(0), most=99)
    boxes = {f"the {node.class_name}": node.box for node in graph.nodes}
    assert all(question.box == boxes[question.answer] for question in questions if question.type == "who")
    assert len({question.question for question in questions}) == len(questions)
    return {question.question: question.answer for question in questions}


def test_all_questions_of_a_video_made_by_hand() -> None:
    graph = graph_of("lamp", "crate", "vase")
    events = events_of(("tips over", 1), ("is pushed", 2), ("orbits", None))
    assert video_captions(graph, events)[0] == (
        "A lamp tips over, then a crate is pushed across the floor while the camera orbits around the scene."
    )
    assert video_captions(graph, events)[1].startswith("Three events: a lamp tips over, then a crate is")
    assert "In the end the picture shows a lamp, a crate and a vase on a carpet." in video_captions(graph, events)[1]
    actual = answers(graph, events)
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
    assert actual == expected


def test_objects_without_a_name_are_counted_only() -> None:
    graph = graph_of("cup", "cup")
    events = events_of(("falls", 2))
    assert video_captions(graph, events)[0] == "One of the cups falls from above."
    assert set(answers(graph, events)) == {
        "Does the camera move?",
        "How many things move?",
        *(f"How many things {several}?" for _, several, _ in VERBS.values()),
    }


def test_no_answer_is_the_rule() -> None:
    right: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for number in range(300):
        generator = np.random.default_rng(number)
        names = [f"thing{letter}" for letter in "abcd"[: generator.integers(1, 5)]]
        movers = generator.permutation(len(names))[: generator.integers(1, 4)]
        actions = [list(VERBS)[int(generator.integers(4))] for _ in movers]
        happened = [(action, int(mover) + 1) for action, mover in zip(actions, movers, strict=True)]
        events = events_of(*happened, *([("orbits", None)] if generator.random() < 0.4 else []))
        for question in video_questions(graph_of(*names), events, generator, most=6):
            right[question.type][question.answer] += 1
    assert right.keys() == {"action", "happens", "times", "who", "order"}
    for type, counts in right.items():
        assert max(counts.values()) < 0.6 * counts.total(), (type, counts)
