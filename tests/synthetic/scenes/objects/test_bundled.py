"""The objects that need no download."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from perception_encoder.errors import ConfigError
from synthetic.scenes.layout.sampling import LayoutConfig, SceneSampler
from synthetic.scenes.objects.bundled import OBJECTS, REVOLVED, bundled_models, revolved_models
from synthetic.scenes.objects.models import ObjectLibrary


def test_they_are_enough_for_every_split() -> None:
    library = ObjectLibrary(bundled_models())
    assert len(library) == len(OBJECTS) + len(REVOLVED)
    for split in ("train", "val", "test"):
        SceneSampler(library, library.select(split), LayoutConfig())
    assert all(0.05 < max(info.size) < 0.6 and info.licence and info.creator for info in library.info.values())
    assert library["pybullet-rubber-duck"].colour() == "yellow"


def test_a_surface_of_revolution_is_closed_and_has_its_outline() -> None:
    mesh = revolved_models()["pybullet-cylinder"].mesh
    assert mesh.size == pytest.approx((0.16, 0.16, 0.22))
    edges = np.sort(np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]), axis=1)
    corners = np.unique(mesh.vertices.round(4), axis=0, return_inverse=True)[1][edges]
    _, counts = np.unique(np.sort(corners, axis=1), axis=0, return_counts=True)
    assert (counts == 2).all()  # every edge has two faces


def test_a_python_without_a_wheel_of_pybullet_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybullet_data", None)
    monkeypatch.setattr(sys, "version_info", (3, 13, 1))
    with pytest.raises(ConfigError, match=r"has no wheel for Python 3\.13; use Python 3\.11"):
        bundled_models()
