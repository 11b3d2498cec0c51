"""Captions and questions of events made by hand."""

from __future__ import annotations

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
