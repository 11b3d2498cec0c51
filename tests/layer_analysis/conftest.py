"""Encoders that an analysis loads by their names."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.layer_analysis import report

Load = Callable[..., None]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """`load(encoder, …)`: these encoders are loaded by their names."""

    def use(*encoders: LayerFeatures) -> None:
        by_name = {encoder.name: encoder for encoder in encoders}
        monkeypatch.setattr(report, "load_layers", lambda name, **_: by_name[name])

    return use
