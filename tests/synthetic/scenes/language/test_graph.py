"""The graph of an image has its objects, and only the relations that are beyond doubt."""

from __future__ import annotations

import numpy as np

from synthetic.scenes.language.graph import find_box
from synthetic.scenes.layout.scene import PlacedObject
from synthetic.scenes.rendering.renderer import Renderer
from tests.synthetic.scenes.conftest import BLUE, RED, STACK, graph_of


def test_a_box_is_around_the_pixels_of_a_mask() -> None:
    mask = np.zeros((6, 8), bool)
    assert find_box(mask) is None
    mask[1:3, 2:5] = True
    assert find_box(mask) == (2.0, 1.0, 5.0, 3.0)
    mask[5, 7] = True
    assert find_box(mask) == (2.0, 1.0, 8.0, 6.0)


def test_relations_of_a_scene_made_by_hand(renderer: Renderer) -> None:
    graph = graph_of(
        renderer,
        *STACK,
        PlacedObject(model="pybullet-cylinder", position=(-0.74, 1.2, 0.0), tint=BLUE),
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


def test_objects_of_one_class_are_told_apart_by_colour_or_not_at_all(renderer: Renderer) -> None:
    def cones(*tints: tuple[float, float, float]) -> list[str]:
        places = ((-0.4, 0.0, 0.0), (0.0, 0.0, 0.0), (0.4, 0.0, 0.0))
        placed = zip(places[: len(tints)], tints, strict=True)
        objects = [PlacedObject(model="pybullet-cone", position=place, tint=tint) for place, tint in placed]
        graph = graph_of(renderer, *objects)
        return [graph.name(node) for node in graph.nodes]

    assert cones(RED, BLUE) == ["red cone", "blue cone"]
    assert cones(RED, BLUE, RED) == ["", "blue cone", ""]
