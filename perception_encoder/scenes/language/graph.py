"""What is true of a picture: its things with their frames and colours, and how they stand to each other.

All captions and questions are said of this graph, and of nothing else. A relation is in it only where no one would
doubt it: `left of` and `right of` in the picture, `behind` and `in front of` along the camera's axis, `on` as placed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception_encoder.scenes.layout.camera import Camera
from perception_encoder.scenes.layout.scene import Scene, corners_of
from perception_encoder.scenes.objects.models import Library

LEAST_SEEN = 0.0025  # of the picture's pixels, for a thing to be in it
BESIDE = 0.08  # of the picture's side, between the middles of frames of which one is left of the other
OPPOSITE = {"left of": "right of", "right of": "left of", "behind": "in front of", "in front of": "behind"}


@dataclass(frozen=True, kw_only=True)
class Node:
    """A thing in a picture."""

    id: int
    """Its value in the mask: 1 and up."""
    model: str
    label: str
    kind: str
    """What it is counted as."""
    colour: str
    """Empty where no one colour covers most of it."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom of what is seen of it, in pixels."""
    pixels: int
    size: tuple[float, float, float]
    """Width, depth and height in metres."""
    position: tuple[float, float, float]
    """The middle of its bottom, in metres, in the world."""
    turn: tuple[float, float, float, float]
    """How it is turned: a quaternion x, y, z, w."""
    depth: float
    """Metres along the camera's axis to the middle of its box."""
    extent: float
    """Metres along the floor that it reaches from its middle."""
    on: int | None
    """The id of what it stands on; None is the floor."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """All that is said of a picture."""

    side: int
    floor: str
    nodes: tuple[Node, ...]
    relations: tuple[tuple[int, str, int], ...]
    """(id, relation, id): `left of`, `right of`, `behind`, `in front of`, `on`."""

    def to_json(self) -> dict[str, Any]:
        """As samples hold it."""
        return {
            "objects": [dict(vars(node)) for node in self.nodes],
            "relations": [list(relation) for relation in self.relations],
            "floor": self.floor,
        }

    @property
    def counts(self) -> Counter[str]:
        """How many things there are of each kind."""
        return Counter(node.kind for node in self.nodes)

    @property
    def by_id(self) -> dict[int, Node]:
        """The things by id."""
        return {node.id: node for node in self.nodes}

    def of_kind(self, kind: str) -> list[Node]:
        """The things of one kind."""
        return [node for node in self.nodes if node.kind == kind]

    def named(self) -> list[tuple[Node, str]]:
        """The things that have a name of their own, with it."""
        return [(node, name) for node in self.nodes if (name := self.name(node))]

    def name(self, node: Node) -> str:
        """What tells a thing from all others in the picture, without an article; empty where nothing short does."""
        alike = self.of_kind(node.kind)
        if len(alike) == 1:
            return node.label
        colours = [other.colour for other in alike]
        if node.colour and colours.count(node.colour) == 1 and "" not in colours:
            return f"{node.colour} {node.kind}"
        return ""

    def related(self, relation: str, to: int) -> list[Node]:
        """The things that stand in a relation to one."""
        by_id = self.by_id
        return [by_id[first] for first, between, second in self.relations if (between, second) == (relation, to)]


def describe(scene: Scene, mask: np.ndarray, library: Library) -> Graph | None:
    """The graph of a scene's picture with this mask (S, S); None where something is too hidden to speak of it."""
    boxes = find_boxes(mask, len(scene.things))
    side = len(mask)
    nodes = []
    for number, (thing, found) in enumerate(zip(scene.things, boxes, strict=True), start=1):
        if found is None or found[1] < LEAST_SEEN * side * side:
            return None
        about = library.about[thing.model]
        corners = corners_of(np.array(thing.position), np.array(thing.turn), np.array(about.size))
        middle = corners.mean(axis=0)
        nodes.append(
            Node(
                id=number,
                model=thing.model,
                label=about.label,
                kind=about.kind,
                colour=library[thing.model].colour(thing.tint),
                box=found[0],
                pixels=found[1],
                size=about.size,
                position=thing.position,
                turn=thing.turn,
                depth=float(scene.camera.project(middle, side)[2]),
                extent=float(np.hypot(*(corners - middle)[:, :2].T).max()),
                on=None if thing.on is None else thing.on + 1,
            )
        )
    return Graph(side=side, floor=scene.floor, nodes=tuple(nodes), relations=tuple(relate(nodes, scene.camera, side)))


def find_boxes(mask: np.ndarray, count: int) -> list[tuple[tuple[float, float, float, float], int] | None]:
    """The frame of each value 1…count in a mask, with its number of pixels; None where it has none."""
    found: list[tuple[tuple[float, float, float, float], int] | None] = []
    for number in range(1, count + 1):
        here = mask == number
        rows, columns = np.flatnonzero(here.any(axis=1)), np.flatnonzero(here.any(axis=0))
        if len(rows) == 0:
            found.append(None)
            continue
        box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        found.append((box, int(here.sum())))
    return found


def relate(nodes: Sequence[Node], camera: Camera, side: int) -> list[tuple[int, str, int]]:
    """Every relation between two things that is beyond doubt."""
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
    """The ids of a thing and of all that it stands on."""
    stack, below = {node.id}, node.on
    while below is not None:
        stack.add(below)
        below = next(other.on for other in nodes if other.id == below)
    return stack


def _is_left(first: Node, second: Node, side: int) -> bool:
    """Whether the first's frame is left of the second's: their middles are apart, and they overlap little."""
    middles = (second.box[0] + second.box[2] - first.box[0] - first.box[2]) / 2
    widths = (second.box[2] - second.box[0] + first.box[2] - first.box[0]) / 2
    return middles > max(BESIDE * side, 0.75 * widths)


def _is_behind(first: Node, second: Node) -> bool:
    """Whether the first is farther away by more than their extents on the floor explain."""
    return first.depth - second.depth > max(first.extent + second.extent, 1e-6) * 0.9
