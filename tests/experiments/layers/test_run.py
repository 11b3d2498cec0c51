"""The layers in small: questions are cut to size, answers are cached, and missing data are named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.layers.page import page
from experiments.layers.plot import draw
from experiments.layers.run import (
    BUILTIN,
    FIRST,
    KEPT,
    LAST,
    NORMED,
    UNTRAINED,
    reproduce_layers,
)
from experiments.layers.subjects import LayerData, Sizes, make_questions, measured_layers
from perception_encoder.errors import DataError
from perception_encoder.formats.shards import write_members
from perception_encoder.layer_analysis.colour_encoder import COLOURS
from perception_encoder.layer_analysis.sweep import FORMAT
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.models.initialization import initialize
from perception_encoder.models.registry import BUILTIN as BUILTIN_NAME
from perception_encoder.models.vision_transformer import VisionTransformer
from tests.evaluation.colours import write_colours
from tests.evaluation.layers import discs, png, write_video
from tests.layer_analysis.toys import LightnessTask


def test_of_a_deep_tower_as_many_layers_are_measured() -> None:
    assert measured_layers(12) == [1, 3, 5, 7, 9, 11]
    assert measured_layers(24) == list(range(3, 24, 4))
    assert measured_layers(2) == [0, 1] and measured_layers(6) == list(range(6))


@pytest.fixture
def data(tmp_path: Path) -> LayerData:
    """A few pictures and frames in the formats of the real ones."""
    for split in ("train", "test"):
        names = ["red rose", "green rose", "blue rose"] * (10 if split == "train" else 3)
        write_colours(tmp_path / "labelled" / f"{split}.tar", "flowers", names)
        kinds = {"train": ["chair"] * 8, "test": ["lamp"] * 4}[split]
        write_members(tmp_path / "scenes" / split / "00000.tar", scene_members(kinds))
    pictures, masks = discs()
    write_video(tmp_path / "clips" / "one.tar", pictures, masks)
    members = [(f"{n}.{kind}", content) for n in range(5) for kind, content in depth_members(n)]
    write_members(tmp_path / "rooms.tar", members)
    described = {f"{n}.png": f"a {colour} wall" for n, colour in enumerate(["red", "red", "blue", "blue"])}
    for name in described:
        (tmp_path / name).write_bytes(png(np.zeros((16, 16, 3), np.uint8)))
    (tmp_path / "captions.json").write_text(json.dumps(described), encoding="utf-8")
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
    found = []
    for n, kind in enumerate(kinds):
        said = json.dumps({"objects": [{"id": 1, "kind": kind}]}).encode()
        found += [(f"{n}.{kind}", content) for kind, content in depth_members(n)]
        found += [(f"{n}.mask.png", png(mask)), (f"{n}.json", said)]
    return found


def test_questions_are_cut_to_size(data: LayerData) -> None:
    questions = make_questions(data, Sizes(photos=6, scenes=2, rooms=2, clips=3, captions=3))
    tasks = {task.name: task for task in questions}
    assert list(tasks) == [
        "classification",
        "retrieval",
        "segmentation",
        "depth of scenes",
        "depth of rooms",
        "tracking",
        "captions",
    ]
    encoder = LikeEncoder()
    shown = {name: [len(each.keys) for each in task.images(encoder)] for name, task in tasks.items()}
    assert shown["depth of scenes"] == shown["segmentation"] == [4, 2]
    assert shown["captions"] == shown["tracking"] == [3]
    sizes = {name: {each.image_size for each in task.images(encoder)} for name, task in tasks.items()}
    assert sizes["segmentation"] == sizes["depth of rooms"] == {(128, 128)} != sizes["classification"]
    assert shown["depth of rooms"] == [3, 2] and shown["retrieval"] == [6]


def test_scenes_are_told_into_things_and_background(data: LayerData) -> None:
    (task,) = (each.task.task for each in make_questions(data, Sizes()) if each.name == "segmentation")
    assert task.train.classes == task.test.classes == ("background", "thing")
    lamp = task.test.labels(1)  # of a kind that no training picture shows
    assert lamp[0, 0] == 0 and lamp[8, 8] == 1 and lamp.sum() == 64


class LikeEncoder:
    """What tasks look at before anything is encoded."""

    name, depth, patch_size, image_size = "like", 1, 16, (32, 32)


def test_missing_data_are_named(data: LayerData, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"clips: .*nowhere does not exist"):
        dataclasses.replace(data, clips=tmp_path / "nowhere")
    with pytest.raises(
        DataError, match=r"tower of step 1 is missing: .*nano_step1.safetensors; run python -m experiments"
    ):
        reproduce_layers(tmp_path / "a.json", tmp_path / "runs", data, tmp_path / "towers")
    assert not (tmp_path / "runs").exists()
    without = make_questions(dataclasses.replace(data, rooms=None), Sizes())
    assert "depth of rooms" not in [task.name for task in without]


TASKS = (
    LightnessTask(count=12, name="tracking"),
    LightnessTask(count=12, name="depth of rooms", lower=True),
    LightnessTask(count=12, name="classification"),
)


@pytest.fixture
def towers(tmp_path: Path) -> Path:
    """Two small towers where the recipe's ends are looked for."""
    folder = tmp_path / "towers"
    folder.mkdir()
    config = dataclasses.replace(create_model(BUILTIN_NAME).visual.config, depth=3, width=32, heads=2)
    for seed, file in enumerate(KEPT.values()):
        tower = VisionTransformer(config, BUILTIN_NAME)
        initialize(tower, torch.Generator().manual_seed(1 + seed))
        write_checkpoint(tower, folder / file)
    return folder


def test_answers_are_cached_and_not_made_again(
    data: LayerData, towers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("subjects", "run"):
        monkeypatch.setattr(f"experiments.layers.{module}.make_questions", lambda *_: TASKS)
    out, runs = tmp_path / "layers.json", tmp_path / "runs"
    result = reproduce_layers(out, runs, data, towers)
    names = [model["name"] for model in result["models"]]
    assert names == [FIRST, LAST, BUILTIN, NORMED, UNTRAINED, COLOURS]
    layers = {(row["model"], row["task"]): row["layers"] for row in result["curves"]}
    assert layers[BUILTIN, "tracking"] == measured_layers(12) and layers[FIRST, "tracking"] == [0, 1, 2]
    assert layers[NORMED, "tracking"] == [11] and (NORMED, "classification") not in layers
    assert (COLOURS, "tracking") in layers and (COLOURS, "classification") not in layers
    values = {row["model"]: row["values"][-1] for row in result["curves"] if row["task"] == "tracking"}
    assert values[NORMED] != values[BUILTIN]
    assert json.loads(out.read_text()) == result
    assert not any((runs / "features").iterdir())  # gigabytes, in a real run

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("something was made again")

    monkeypatch.setattr("experiments.layers.subjects.run_sweep", fail)
    assert reproduce_layers(out, runs, data, towers) == result
    with monkeypatch.context() as later:
        later.setattr("experiments.layers.subjects.FORMAT", FORMAT + 1)
        with pytest.raises(AssertionError, match="made again"):  # answers in another format are not read
            reproduce_layers(out, runs, data, towers)
    assert page(result, "layers.png").count("\n|") == 2 + 3 * len(TASKS)
    draw(result, tmp_path / "layers.png")
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")
