"""Every answer is counted again, by rules that share no code with the questions."""

from __future__ import annotations

import numpy as np

from synthetic.scenes.language.graph import Node, SceneGraph, build_graph
from synthetic.scenes.language.questions import SceneQuestion, image_questions
from synthetic.scenes.layout.sampling import LayoutConfig, SceneSampler
from synthetic.scenes.rendering.renderer import Renderer
from tests.synthetic.scenes.conftest import draw


def recount(question: SceneQuestion, graph: SceneGraph) -> tuple[str, tuple[float, ...] | None]:
    """The answer and its box by rules written anew, from the words of the question and the objects alone."""
    text = question.question.rstrip("?")
    plural = {f"{node.class_name}s": node.class_name for node in graph.nodes}
    if question.type == "count":
        name = text.removeprefix("How many ").removesuffix(" are there")
        nodes = [node for node in graph.nodes if name in ("things", f"{node.class_name}s")]
        alone = len(nodes) == 1 and name != "things"
        return str(len(nodes)), nodes[0].box if alone else None
    if question.type == "exists":
        name = text.split(maxsplit=3)[3]
        nodes = [node for node in graph.nodes if node.class_name == name]
        return ("yes" if nodes else "no"), (nodes[0].box if len(nodes) == 1 else None)
    if text.startswith("Are there more "):
        first, second = text.removeprefix("Are there more ").split(" than ")
        classes = [node.class_name for node in graph.nodes]
        return ("yes" if classes.count(plural[first]) > classes.count(plural[second]) else "no"), None
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
    word = next(item for item in words if f" {item} the " in text)
    if question.type == "which":
        second = named[-1]
        nodes = [node for node in graph.nodes if node.id != second.id and holds(node, words[word], second)]
        clear = [node for node in nodes if node.id in question.objects]
        return f"the {name_of(clear[0], graph)}", clear[0].box
    ordered = sorted(named, key=lambda node: text.index(f"the {name_of(node, graph)}"))
    return ("yes" if holds(ordered[0], words[word], ordered[1]) else "no"), ordered[0].box


def name_of(node: Node, graph: SceneGraph) -> str:
    same_class = [other for other in graph.nodes if other.class_name == node.class_name]
    return node.label if len(same_class) == 1 else f"{node.colour} {node.class_name}"


def refers(text: str, node: Node, graph: SceneGraph) -> bool:
    return f"the {name_of(node, graph)} " in f"{text} " or f"the {name_of(node, graph)}," in text


def holds(first: Node, relation: object, second: Node) -> bool:
    if relation == "on":
        return first.on == second.id
    if relation in ("far", "near"):
        return first.depth > second.depth if relation == "far" else first.depth < second.depth
    middles = [(node.box[0] + node.box[2]) / 2 for node in (first, second)]
    return middles[0] < middles[1] if relation == -1 else middles[0] > middles[1]


def test_every_answer_is_what_a_recount_says(renderer: Renderer) -> None:
    sampler = SceneSampler(renderer.library, renderer.library.select(), LayoutConfig(least=3, again=0.5))
    classes = sorted(sampler.keys)
    types: dict[str, int] = {}
    for number in range(12):
        generator = np.random.default_rng(number)
        scene = sampler.sample(generator)
        graph = build_graph(scene, draw(renderer, scene, 48).mask, renderer.library)
        for question in image_questions(graph, classes, generator, most=40) if graph else []:
            types[question.type] = types.get(question.type, 0) + 1
            assert recount(question, graph) == (question.answer, question.box), question
            assert set(question.objects) <= {node.id for node in graph.nodes}
    assert types.keys() == {"count", "exists", "colour", "where", "which", "relation", "compare"}
