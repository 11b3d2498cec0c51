"""What is said of hand-made scenes; and every answer counted again, without the code that asked."""

from __future__ import annotations

import numpy as np
import pytest

from perception_encoder.scenes.language.graph import Graph, Node, describe, find_boxes
from perception_encoder.scenes.language.phrases import captions, counted, description
from perception_encoder.scenes.language.questions import Question, ask
from perception_encoder.scenes.layout.sampling import LayoutConfig, Layouts
from perception_encoder.scenes.layout.scene import Thing
from perception_encoder.scenes.objects.models import Library
from perception_encoder.scenes.rendering.renderer import Renderer
from tests.scenes.conftest import scene_of

RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.2, 0.9)
STACK = (
    Thing(model="test-table", position=(0.5, 0.0, 0.0)),
    Thing(model="pybullet-cone", position=(0.5, 0.0, 0.2), tint=RED, on=0),
    Thing(model="test-crate", position=(-0.5, 0.0, 0.0)),
)


def graph_of(renderer: Renderer, *things: Thing) -> Graph:
    scene = scene_of(*things)
    graph = describe(scene, renderer.draw(scene, 64).mask, renderer.library)
    assert graph is not None
    return graph


@pytest.fixture(scope="module")
def renderer(library: Library):
    with Renderer(library) as found:
        yield found


def test_boxes_are_the_frames_of_a_mask() -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[1:3, 2:5] = 1
    mask[5, 7] = 3
    assert find_boxes(mask, 3) == [((2.0, 1.0, 5.0, 3.0), 6), None, ((7.0, 5.0, 8.0, 6.0), 1)]


def test_relations_of_a_scene_made_by_hand(renderer: Renderer) -> None:
    graph = graph_of(
        renderer,
        *STACK,
        Thing(model="pybullet-cylinder", position=(-0.74, 1.2, 0.0), tint=BLUE),
    )
    table, cone, crate, cylinder = 1, 2, 3, 4
    assert set(graph.relations) == {
        (cone, "on", table),
        *((crate, "left of", other) for other in (table, cone)),
        *((other, "right of", crate) for other in (table, cone)),
        *((cylinder, "left of", other) for other in (table, cone)),
        *((other, "right of", cylinder) for other in (table, cone)),
        *((cylinder, "behind", other) for other in (table, crate)),
        *((other, "in front of", cylinder) for other in (table, crate)),
    }
    assert [node.colour for node in graph.nodes] == ["white", "red", "brown", "blue"]
    assert [graph.name(node) for node in graph.nodes] == ["table", "cone", "crate", "cylinder"]


def test_things_of_one_kind_are_told_apart_by_colour_or_not_at_all(renderer: Renderer) -> None:
    def cones(*tints: tuple[float, float, float]) -> list[str]:
        places = ((-0.4, 0.0, 0.0), (0.0, 0.0, 0.0), (0.4, 0.0, 0.0))
        placed = zip(places[: len(tints)], tints, strict=True)
        things = [Thing(model="pybullet-cone", position=place, tint=tint) for place, tint in placed]
        graph = graph_of(renderer, *things)
        return [graph.name(node) for node in graph.nodes]

    assert cones(RED, BLUE) == ["red cone", "blue cone"]
    assert cones(RED, BLUE, RED) == ["", "blue cone", ""]


def test_what_is_hidden_is_not_spoken_of(renderer: Renderer) -> None:
    behind = Thing(model="pybullet-cylinder", position=(0.0, 0.6, 0.0))
    scene = scene_of(Thing(model="test-table", position=(0.0, -0.9, 0.4)), behind)
    assert describe(scene, renderer.draw(scene, 64).mask, renderer.library) is None


def test_captions_count_and_name(renderer: Renderer) -> None:
    graph = graph_of(
        renderer,
        Thing(model="pybullet-cone", position=(-0.4, 0.0, 0.0), tint=RED),
        Thing(model="pybullet-cone", position=(0.0, 0.0, 0.0), tint=BLUE),
        Thing(model="test-crate", position=(0.5, 0.0, 0.0)),
    )
    assert counted(graph) == ["two cones", "a brown crate"]
    said = captions(graph, np.random.default_rng(0))
    assert said[0].endswith("two cones and a brown crate on a carpet")
    assert said[-1] == description(graph)
    assert "The red cone is to the left of the blue cone." in said[-1]
    assert "two cones and one crate" in said[-1]


def recount(question: Question, graph: Graph) -> tuple[str, tuple[float, ...] | None]:
    """The answer and its box by rules written anew, from the words of the question and the things alone."""
    text = question.question.rstrip("?")
    plural = {f"{node.kind}s": node.kind for node in graph.nodes}
    if question.type == "count":
        kind = text.removeprefix("How many ").removesuffix(" are there")
        found = [node for node in graph.nodes if kind in ("things", f"{node.kind}s")]
        alone = len(found) == 1 and kind != "things"
        return str(len(found)), found[0].box if alone else None
    if question.type == "exists":
        kind = text.split(maxsplit=3)[3]
        found = [node for node in graph.nodes if node.kind == kind]
        return ("yes" if found else "no"), (found[0].box if len(found) == 1 else None)
    if text.startswith("Are there more "):
        first, second = text.removeprefix("Are there more ").split(" than ")
        kinds = [node.kind for node in graph.nodes]
        return ("yes" if kinds.count(plural[first]) > kinds.count(plural[second]) else "no"), None
    named = [node for node in graph.nodes if refers(text, node, graph)]
    if question.type == "colour":
        return named[0].colour, named[0].box
    if question.type == "where":
        node = named[0]
        if text.startswith("Where"):
            below = next(other for other in graph.nodes if other.id == node.on)
            return f"on the {name_of(below, graph)}", node.box
        middle = (node.box[0] + node.box[2]) / 2 / graph.side
        return ("on the left", "in the middle", "on the right")[int(middle * 3)], node.box
    if question.type == "compare":
        best = max(named, key=lambda n: n.size[2]) if "taller" in text else min(named, key=lambda n: n.depth)
        return f"the {name_of(best, graph)}", best.box
    words = {"to the left of": -1, "to the right of": 1, "behind": "far", "in front of": "near", "on": "on"}
    word = next(each for each in words if f" {each} the " in text)
    if question.type == "which":
        second = named[-1]
        found = [node for node in graph.nodes if node.id != second.id and holds(node, words[word], second)]
        clear = [node for node in found if node.id in question.objects]
        return f"the {name_of(clear[0], graph)}", clear[0].box
    ordered = sorted(named, key=lambda node: text.index(f"the {name_of(node, graph)}"))
    return ("yes" if holds(ordered[0], words[word], ordered[1]) else "no"), ordered[0].box


def name_of(node: Node, graph: Graph) -> str:
    alike = [other for other in graph.nodes if other.kind == node.kind]
    return node.label if len(alike) == 1 else f"{node.colour} {node.kind}"


def refers(text: str, node: Node, graph: Graph) -> bool:
    return f"the {name_of(node, graph)} " in f"{text} " or f"the {name_of(node, graph)}," in text


def holds(first: Node, relation: object, second: Node) -> bool:
    if relation == "on":
        return first.on == second.id
    if relation in ("far", "near"):
        return first.depth > second.depth if relation == "far" else first.depth < second.depth
    middles = [(node.box[0] + node.box[2]) / 2 for node in (first, second)]
    return middles[0] < middles[1] if relation == -1 else middles[0] > middles[1]


def test_every_answer_is_what_a_recount_says(renderer: Renderer) -> None:
    layouts = Layouts(renderer.library, renderer.library.select(), LayoutConfig(least=3, again=0.5))
    kinds = sorted(layouts.kinds)
    types: dict[str, int] = {}
    for number in range(12):
        generator = np.random.default_rng(number)
        scene = layouts.invent(generator)
        graph = describe(scene, renderer.draw(scene, 48).mask, renderer.library)
        for question in ask(graph, kinds, generator, most=40) if graph else []:
            types[question.type] = types.get(question.type, 0) + 1
            assert recount(question, graph) == (question.answer, question.box), question
            assert set(question.objects) <= {node.id for node in graph.nodes}
    assert types.keys() == {"count", "exists", "colour", "where", "which", "relation", "compare"}


def test_questions_are_of_many_types_and_have_both_answers(renderer: Renderer) -> None:
    graph = graph_of(renderer, *STACK)
    asked = ask(graph, ["table", "cone", "crate", "sign"], np.random.default_rng(0), most=60)
    answers = {question.answer for question in asked if question.type == "exists"}
    assert answers == {"yes", "no"}
    assert {"Is there a sign?", "Where is the cone?", "What is on the table?"} <= {each.question for each in asked}
    few = ask(graph, ["sign"], np.random.default_rng(0), most=5)
    assert len({question.type for question in few}) == 5
