"""The scene graph of an image: its objects with their boxes and colours, and the relations between them.

All captions and questions are made from this graph alone. A relation is in it only if it is beyond doubt: `left of` and
`right of` in the image, `behind` and `in front of` along the camera's axis, `on` as placed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from synthetic.scenes.layout.scene import LEAST_VISIBLE, Scene, box_corners
from synthetic.scenes.objects.models import ObjectLibrary

BESIDE = 0.08  # of the image's side, between the middles of boxes of which one is left of the other
OPPOSITE = {"left of": "right of", "right of": "left of", "behind": "in front of", "in front of": "behind"}
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Node:
    """An object in an image."""

    id: int
    """Its value in the mask: 1 and up."""
    model: str
    label: str
    class_name: str
    """What it is counted as."""
    colour: str
    """Empty if no one colour covers most of it."""
    box: Box
    """Left, top, right, bottom of its visible part, in pixels."""
    pixels: int
    size: tuple[float, float, float]
    """Width, depth and height in metres."""
    position: tuple[float, float, float]
    """Middle of its bottom, in metres, in the world."""
    turn: tuple[float, float, float, float]
    """Its rotation as a quaternion x, y, z, w."""
    depth: float
    """Metres along the camera's axis to the middle of its box."""
    extent: float
    """Metres along the floor from its middle to its farthest corner."""
    on: int | None
    """Id of the object that it stands on; None is the floor."""


@dataclass(frozen=True, kw_only=True)
class SceneGraph:
    """The objects of an image and their relations."""

    side: int
    floor: str
    nodes: tuple[Node, ...]
    relations: tuple[tuple[int, str, int], ...]
    """(id, relation, id): `left of`, `right of`, `behind`, `in front of`, `on`."""

    def to_json(self) -> dict[str, Any]:
        """Return the graph as samples hold it."""
        nodes = [dict(vars(node)) for node in self.nodes]
        return {
            "objects": [{"kind": node.pop("class_name"), **node} for node in nodes],
            "relations": [
                {"subject": first, "relation": relation, "object": second} for first, relation, second in self.relations
            ],
            "floor": self.floor,
        }

    @property
    def counts(self) -> Counter[str]:
        """Number of objects of each class."""
        return Counter(node.class_name for node in self.nodes)

    @property
    def by_id(self) -> dict[int, Node]:
        """The objects by id."""
        return {node.id: node for node in self.nodes}

    def of_class(self, name: str) -> list[Node]:
        """Return the objects of one class."""
        return [node for node in self.nodes if node.class_name == name]

    def named(self) -> list[tuple[Node, str]]:
        """Return the objects that have a name of their own, with it."""
        return [(node, name) for node in self.nodes if (name := self.name(node))]

    def name(self, node: Node) -> str:
        """Return a name that only this object of the image has, without an article; "" if none is short."""
        same_class = self.of_class(node.class_name)
        if len(same_class) == 1:
            return node.label
        colours = [other.colour for other in same_class]
        if node.colour and colours.count(node.colour) == 1 and "" not in colours:
            return f"{node.colour} {node.class_name}"
        return ""

    def related(self, relation: str, to: int) -> list[Node]:
        """Return the objects that stand in a relation to one."""
        by_id = self.by_id
        return [by_id[first] for first, between, second in self.relations if (between, second) == (relation, to)]


def build_graph(scene: Scene, mask: np.ndarray, library: ObjectLibrary) -> SceneGraph | None:
    """Return the graph of a scene's image with this mask (S, S); None if too little of an object is visible."""
    side = len(mask)
    nodes = []
    for number, item in enumerate(scene.objects, start=1):
        box, pixels = find_box(mask == number), int((mask == number).sum())
        if box is None or pixels < LEAST_VISIBLE * side * side:
            return None
        info = library.info[item.model]
        corners = box_corners(np.array(item.position), np.array(item.turn), np.array(info.size))
        middle = corners.mean(axis=0)
        nodes.append(
            Node(
                id=number,
                model=item.model,
                label=info.label,
                class_name=info.class_name,
                colour=library[item.model].colour(item.tint),
                box=box,
                pixels=pixels,
                size=info.size,
                position=item.position,
                turn=item.turn,
                depth=float(scene.camera.project(middle, side)[2]),
                extent=float(np.hypot(*(corners - middle)[:, :2].T).max()),
                on=None if item.on is None else item.on + 1,
            )
        )
    return SceneGraph(side=side, floor=scene.floor, nodes=tuple(nodes), relations=tuple(_find_relations(nodes, side)))


def find_box(mask: np.ndarray) -> Box | None:
    """Return the box around the true pixels of a mask (H, W); None if there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _find_relations(nodes: Sequence[Node], side: int) -> list[tuple[int, str, int]]:
    """Return every relation between two objects that is beyond doubt."""
    relations = []
    for first in nodes:
        for second in nodes:
            if first.id == second.id:
                continue
            if first.on == second.id:
                relations.append((first.id, "on", second.id))
            if _stack_of(first, nodes) & _stack_of(second, nodes):
                continue
            if _is_left(first, second, side):
                relations += [(first.id, "left of", second.id), (second.id, "right of", first.id)]
            if first.on is None and second.on is None and _is_behind(first, second):
                relations += [(first.id, "behind", second.id), (second.id, "in front of", first.id)]
    return relations


def _stack_of(node: Node, nodes: Sequence[Node]) -> set[int]:
    """The ids of an object and of all objects below it."""
    stack, below = {node.id}, node.on
    while below is not None:
        stack.add(below)
        below = next(other.on for other in nodes if other.id == below)
    return stack


def _is_left(first: Node, second: Node, side: int) -> bool:
    """Whether the first box is left of the second: their middles are apart, and they overlap little."""
    middles = (second.box[0] + second.box[2] - first.box[0] - first.box[2]) / 2
    widths = (second.box[2] - second.box[0] + first.box[2] - first.box[0]) / 2
    return middles > max(BESIDE * side, 0.75 * widths)


def _is_behind(first: Node, second: Node) -> bool:
    """Whether the first is farther away by more than their extents on the floor explain."""
    return first.depth - second.depth > max(first.extent + second.extent, 1e-6) * 0.9
