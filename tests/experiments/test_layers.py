"""The layers in small: results are cached, and missing data are named."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
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
from perception_encoder.formats.shards import write_members
from perception_encoder.layer_analysis.sweep import COLOURS, FORMAT
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.models.initialization import initialize
from perception_encoder.models.registry import BUILTIN as BUILTIN_NAME
from perception_encoder.models.vision_transformer import VisionTransformer
from tests.conftest import ROOT
from tests.evaluation.colours import write_colours
from tests.evaluation.layers import discs, png, write_video
from tests.layer_analysis.toys import LightnessTask, named


@pytest.fixture
def data(tmp_path: Path) -> LayerData:
    """A few images and frames in the formats of the real ones."""
    for split in ("train", "test"):
        names = ["red rose", "green rose", "blue rose"] * (10 if split == "train" else 3)
        write_colours(tmp_path / "labelled" / f"{split}.tar", "flowers", names)
        kinds = {"train": ["chair"] * 8, "test": ["lamp"] * 4}[split]
        write_members(tmp_path / "scenes" / split / "00000.tar", scene_members(kinds))
    write_video(tmp_path / "clips" / "one.tar", *discs())
    members = [(f"{n}.{kind}", content) for n in range(5) for kind, content in depth_members(n)]
    write_members(tmp_path / "rooms.tar", members)
    captions = {f"{n}.png": f"a {colour} wall" for n, colour in enumerate(["red", "red", "blue", "blue"])}
    for name in captions:
        (tmp_path / name).write_bytes(png(np.zeros((16, 16, 3), np.uint8)))
    (tmp_path / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    return LayerData(
        photos=tmp_path / "labelled",
        scenes=tmp_path / "scenes",
        rooms=tmp_path / "rooms.tar",
        clips=tmp_path / "clips",
        captions=tmp_path / "captions.json",
    )


def depth_members(number: int) -> list[tuple[str, bytes]]:
    depth = np.full((16, 16), 1000 + 100 * number, np.uint16)
    return [("jpg", png(np.full((16, 16, 3), 20 * number, np.uint8))), ("depth.png", png(depth))]


def scene_members(kinds: list[str]) -> list[tuple[str, bytes]]:
    mask = np.pad(np.ones((8, 8), np.uint8), 4)
    members = []
    for n, kind in enumerate(kinds):
        about = json.dumps({"objects": [{"id": 1, "kind": kind}]}).encode()
        members += [(f"{n}.{kind}", content) for kind, content in depth_members(n)]
        members += [(f"{n}.mask.png", png(mask)), (f"{n}.json", about)]
    return members


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
    monkeypatch.setattr("experiments.layers.evaluation.run_sweep", lambda *_, **__: pytest.fail("evaluated again"))
    assert reproduce_layers(out, runs, data, towers) == result
    with monkeypatch.context() as later:
        later.setattr("experiments.layers.evaluation.FORMAT", FORMAT + 1)
        with pytest.raises(pytest.fail.Exception, match="evaluated again"):  # results in another format are not read
            reproduce_layers(out, runs, data, towers)
    assert len(layer_gaps(result)) == 3 * len(TASKS)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"experiments.{arguments[0]}", *map(str, arguments[1:])]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_missing_data_are_named(tmp_path: Path) -> None:
    paths = [part for name in ("photos", "rooms", "clips") for part in (f"--{name}", tmp_path)]
    scenes, runs = tmp_path / "none", tmp_path / "runs"
    done = run("layers", *paths, "--scenes", scenes, "--runs", runs, "-o", tmp_path / "a.json")
    assert done.returncode == 2 and done.stderr == f"error: scenes: {scenes} does not exist\n"
    assert not runs.exists()
