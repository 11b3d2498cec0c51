"""The graph of an image has its objects, and only the relations that are beyond doubt."""

from __future__ import annotations

from synthetic.scenes.layout.scene import PlacedObject
from synthetic.scenes.rendering.renderer import Renderer
from tests.synthetic.scenes.conftest import BLUE, STACK, graph_of


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
