"""The layers in small: results are cached, and a missing tower is an error."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from experiments.findings import layer_gaps
from experiments.layers.evaluation import spread_to_last
from experiments.layers.run import (
    BUILTIN,
    FIRST,
    LAST,
    NORMED,
    TOWER_FILES,
    UNTRAINED,
    reproduce_layers,
)
from experiments.layers.tasks import LayerData
from perception_encoder.layer_analysis.sweep import COLOURS, FORMAT
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.models.initialization import initialize
from perception_encoder.models.registry import BUILTIN as BUILTIN_NAME
from perception_encoder.models.vision_transformer import VisionTransformer
from tests.layer_analysis.toys import LightnessTask, named

TASKS = named(
    LightnessTask(count=12, name="tracking"),
    LightnessTask(count=12, name="depth of rooms", lower=True),
    LightnessTask(count=12, name="classification"),
)


@pytest.fixture
def towers(tmp_path: Path) -> Path:
    """Two small towers in the place of the recipe's ends."""
    directory = tmp_path / "towers"
    directory.mkdir()
    config = dataclasses.replace(create_model(BUILTIN_NAME).visual.config, depth=3, width=32, heads=2)
    for seed, file in enumerate(TOWER_FILES.values()):
        tower = VisionTransformer(config, BUILTIN_NAME)
        initialize(tower, torch.Generator().manual_seed(1 + seed))
        write_checkpoint(tower, directory / file)
    return directory


def test_results_are_cached_and_not_evaluated_again(
    data: LayerData, towers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("evaluation", "run"):
        monkeypatch.setattr(f"experiments.layers.{module}.make_layer_tasks", lambda *_: TASKS)
    out, runs = tmp_path / "layers.json", tmp_path / "runs"
    result = reproduce_layers(out, runs, data, towers)
    names = [model["name"] for model in result["models"]]
    assert names == [FIRST, LAST, BUILTIN, NORMED, UNTRAINED, COLOURS]
    layers = {(row["model"], row["task"]): row["layers"] for row in result["curves"]}
    assert layers[BUILTIN, "tracking"] == spread_to_last(12) and layers[FIRST, "tracking"] == [0, 1, 2]
    assert layers[NORMED, "tracking"] == [11] and (NORMED, "classification") not in layers
    assert (COLOURS, "tracking") in layers and (COLOURS, "classification") not in layers
    values = {row["model"]: row["values"][-1] for row in result["curves"] if row["task"] == "tracking"}
    assert values[NORMED] != values[BUILTIN]
    assert json.loads(out.read_text()) == result
    assert not any((runs / "features").iterdir())  # gigabytes, in a real run

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("evaluated again")

    monkeypatch.setattr("experiments.layers.evaluation.run_sweep", fail)
    assert reproduce_layers(out, runs, data, towers) == result
    with monkeypatch.context() as later:
        later.setattr("experiments.layers.evaluation.FORMAT", FORMAT + 1)
        with pytest.raises(AssertionError, match="evaluated again"):  # results in another format are not read
            reproduce_layers(out, runs, data, towers)
    assert len(layer_gaps(result)) == 3 * len(TASKS)
