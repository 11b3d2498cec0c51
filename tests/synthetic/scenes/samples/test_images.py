"""Masks of images as COCO writes them, and images with hidden objects."""

from __future__ import annotations

import numpy as np
import pytest

from synthetic.scenes.layout.scene import PlacedObject
from synthetic.scenes.objects.models import ObjectLibrary
from synthetic.scenes.samples.images import ImageMaker
from synthetic.scenes.samples.sample import ScenesConfig
from tests.synthetic.scenes.conftest import STACK, scene_of


def test_an_image_with_a_hidden_object_is_refused(library: ObjectLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = PlacedObject(model="pybullet-cylinder", position=(0.0, 0.6, 0.0))
    with ImageMaker(library, ScenesConfig(side=64)) as maker:
        for scene, refused in (
            (scene_of(*STACK), False),
            (scene_of(PlacedObject(model="test-table", position=(0.0, -0.9, 0.4)), hidden), True),
        ):
            monkeypatch.setattr(maker.sampler, "sample", lambda generator, scene=scene: scene)
            assert (maker.attempt(0, np.random.default_rng(0)) is None) == refused
