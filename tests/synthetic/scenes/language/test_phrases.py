"""Captions count the objects, name their colours and tell their relations."""

from __future__ import annotations

import numpy as np

from synthetic.scenes.language.phrases import (
    count_phrases,
    describe_graph,
    image_captions,
)
from synthetic.scenes.layout.scene import PlacedObject
from synthetic.scenes.rendering.renderer import Renderer
from tests.synthetic.scenes.conftest import BLUE, RED, STACK, graph_of


def test_captions_count_and_name(renderer: Renderer) -> None:
    graph = graph_of(
        renderer,
        PlacedObject(model="pybullet-cone", position=(-0.4, 0.0, 0.0), tint=RED),
        PlacedObject(model="pybullet-cone", position=(0.0, 0.0, 0.0), tint=BLUE),
        PlacedObject(model="test-crate", position=(0.5, 0.0, 0.0)),
    )
    assert count_phrases(graph) == ["two cones", "a brown crate"]
    captions = image_captions(graph, np.random.default_rng(0))
    assert captions[0].endswith("two cones and a brown crate on a carpet")
    assert captions[-1] == describe_graph(graph)
    assert "The red cone is to the left of the blue cone." in captions[-1]
    assert "two cones and one crate" in captions[-1]


def test_one_caption_is_a_relation(renderer: Renderer) -> None:
    graph = graph_of(renderer, *STACK)
    captions = {image_captions(graph, np.random.default_rng(seed))[1] for seed in range(60)}
    assert "a red cone on a white table" in captions
    assert captions == {
        "a red cone on a white table",
        *(f"a brown crate to the left of a {other}" for other in ("white table", "red cone")),
        *(f"a {other} to the right of a brown crate" for other in ("white table", "red cone")),
    }
