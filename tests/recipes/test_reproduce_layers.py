"""The layers in small: towers differ in what they are to differ in, answers are kept, and missing data are named."""

from __future__ import annotations

import dataclasses
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from perception_encoder.data.pairs import Stage
from perception_encoder.data.shards import write_members
from perception_encoder.errors import DataError
from perception_encoder.evaluation.colour_encoder import COLOURS
from perception_encoder.evaluation.outcomes import HeldOut
from perception_encoder.models.clip import CLIP
from perception_encoder.models.initialization import initialize
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.models.weights import load_model, write_checkpoint
from perception_encoder.pretraining.run import PretrainingConfig, pretrain, tower_configs
from perception_encoder.recipes.builtin import debug
from perception_encoder.recipes.layer_subjects import LayerData, Sizes, make_questions, measured_layers
from perception_encoder.recipes.layers_page import page
from perception_encoder.recipes.layers_plot import draw
from perception_encoder.recipes.nano_steps import nano_step, run_flops
from perception_encoder.recipes.reproduce_layers import (
    BUILTIN,
    DEPTHS,
    FIRST,
    FLOPS,
    KEPT,
    LAST,
    LENGTHS,
    POOLS,
    STEP,
    Plan,
    contrasts,
    reproduce_layers,
    tower_name,
    variant,
)
from perception_encoder.recipes.reproduction import Place, Run
from tests.evaluation.colours import ColourEncoder, write_colours
from tests.evaluation.layers import discs, png, write_video
from tests.layer_analysis.toys import LightnessTask


@pytest.mark.parametrize(("depth", "pool", "length"), list(product(DEPTHS, POOLS, LENGTHS)))
def test_towers_differ_in_depth_pooling_and_length_alone(depth: int, pool: str, length: str) -> None:
    config = variant(depth, pool, length)
    assert run_flops(config) == pytest.approx(FLOPS[length], rel=0.01)
    assert config.samples < variant(12, pool, length).samples or depth == 12
    vision, _ = tower_configs(config)
    assert (vision.depth, vision.attention_pool) == (depth, pool == "attention pooling")
    given, whole = dataclasses.asdict(nano_step(STEP)), dataclasses.asdict(config)
    changed = {name for name in given if given[name] != whole[name]} - {"stages", "warmup"}  # more or fewer steps
    assert changed <= {"layers", "attention_pool"}


def test_a_contrast_changes_one_thing() -> None:
    found = {each.name: each.pairs for each in contrasts(DEPTHS)}
    assert (
        found["recipe"] == ((FIRST, LAST),) and [len(found[name]) for name in ("depth", "pooling", "length")] == [4] * 3
    )
    assert (tower_name(24, "class token", "long"), tower_name(24, "attention pooling", "long")) in found["pooling"]
    assert (tower_name(12, "class token", "long"), tower_name(24, "class token", "long")) in found["depth"]
    assert (tower_name(24, "class token", "short"), tower_name(24, "class token", "long")) in found["length"]


def test_of_a_deep_tower_as_many_layers_are_measured() -> None:
    assert measured_layers(12) == [1, 2, 3, 5, 7, 8, 9, 11]
    assert measured_layers(24) == list(range(2, 24, 3))
    assert measured_layers(2) == [0, 1] and measured_layers(8) == list(range(8))


def tiny(depth: int, pool: str, length: str) -> PretrainingConfig:
    """A run of a second."""
    return dataclasses.replace(
        debug(),
        stages=(Stage(image_size=32, steps=1),),
        seed=int(length == "long"),
        batch_size=4,
        layers=depth,
        attention_pool=pool == POOLS[1],
        masking=None,
        weights={"flowers": 1},
    )


def test_a_tower_of_another_depth_is_trained(place: Place) -> None:
    path = pretrain(tiny(2, POOLS[0], "short"), [place.photos, place.drawings], place.runs)
    model = load_model(path)
    assert isinstance(model, CLIP) and (model.visual.config.depth, model.visual.config.attention_pool) == (2, False)


class Untrained:
    """Stands for training, which `test_reproduce_recipe` covers: first weights, and what colours alone get right."""

    right: dict[str, Any] | None = None

    def __call__(self, run: Run, place: Place, listener: object, track: object = None) -> dict[str, Any]:
        held_out = HeldOut(place.photos, place.drawings)
        write_checkpoint(untrained(run.config), place.runs / run.key / "model.safetensors", half=True)
        self.right = self.right or held_out.pack(held_out.measure(ColourEncoder()))
        return {**run.about, "samples": run.config.samples, "seconds": 1, "right": self.right}


def untrained(config: PretrainingConfig) -> VisionTransformer:
    tower = VisionTransformer(tower_configs(config)[0], config.model)
    initialize(tower, torch.Generator().manual_seed(1 + config.seed + config.attention_pool))
    return tower


@pytest.fixture
def data(tmp_path: Path, place: Place) -> LayerData:
    """A few pictures and frames in the formats of the real ones."""
    for split in ("train", "test"):
        names = ["red rose", "green rose", "blue rose"] * (10 if split == "train" else 3)
        write_colours(tmp_path / "labelled" / f"{split}.tar", "flowers", names)
        kinds = {"train": ["chair"] * 8, "test": ["lamp"] * 4}[split]
        write_members(tmp_path / "scenes" / split / "00000.tar", scene_members(kinds))
        (tmp_path / "scenes" / split / "instances.json").write_text(json.dumps(boxes(kinds)), encoding="utf-8")
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


def boxes(kinds: list[str]) -> dict[str, Any]:
    """A box around the thing of each scene, in COCO's format."""
    return {
        "images": [
            {"id": n, "file_name": f"{n}.{kind}.jpg", "width": 16, "height": 16} for n, kind in enumerate(kinds)
        ],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [4, 4, 8, 8]} for n in range(len(kinds))],
        "categories": [{"id": 1, "name": "chair"}],
    }


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
        "detection",
        "captions",
    ]
    encoder = LikeEncoder()
    shown = {name: [len(each.keys) for each in task.pictures(encoder)] for name, task in tasks.items()}
    assert shown["depth of scenes"] == shown["segmentation"] == shown["detection"] == [4, 2]
    assert shown["captions"] == shown["tracking"] == [3]
    sizes = {name: {each.image_size for each in task.pictures(encoder)} for name, task in tasks.items()}
    assert sizes["detection"] == sizes["depth of rooms"] == {(128, 128)} != sizes["classification"]
    assert shown["depth of rooms"] == [3, 2] and shown["retrieval"] == [6]


def test_scenes_are_told_into_things_and_background(data: LayerData) -> None:
    (task,) = (each.task.task for each in make_questions(data, Sizes()) if each.name == "segmentation")
    assert task.train.classes == task.test.classes == ("background", "thing")
    lamp = task.test.labels(1)  # of a kind that no training picture shows
    assert lamp[0, 0] == 0 and lamp[8, 8] == 1 and lamp.sum() == 64


class LikeEncoder:
    """What tasks look at before anything is encoded."""

    name, depth, patch_size, image_size = "like", 1, 16, (32, 32)


def test_missing_data_are_named(data: LayerData, place: Place, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"clips: .*nowhere does not exist"):
        dataclasses.replace(data, clips=tmp_path / "nowhere")
    (data.scenes / "test" / "instances.json").unlink()
    with pytest.raises(DataError, match=r"objects: .*no annotations"):
        make_questions(data, Sizes())
    with pytest.raises(DataError, match=r"tower of step 1 is missing: .*nano_step1.safetensors; pe reproduce recipe"):
        reproduce_layers(place, data, tmp_path / "towers")
    assert not place.runs.exists()


TASKS = (
    LightnessTask(count=12, name="tracking"),
    LightnessTask(count=12, name="depth of rooms", lower=True),
    LightnessTask(count=12, name="classification"),
)


@pytest.fixture
def towers(tmp_path: Path) -> Path:
    """Two towers where the recipe's ends are looked for."""
    folder = tmp_path / "towers"
    folder.mkdir()
    for seed, file in enumerate(KEPT.values()):
        write_checkpoint(untrained(dataclasses.replace(tiny(3, POOLS[seed], "short"), rope=bool(seed))), folder / file)
    return folder


def test_towers_and_answers_are_kept_and_not_made_again(
    place: Place, data: LayerData, towers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("layer_subjects", "reproduce_layers"):
        monkeypatch.setattr(f"perception_encoder.recipes.{module}.make_questions", lambda *_: TASKS)
    monkeypatch.setattr("perception_encoder.recipes.reproduction.carry_out", Untrained())
    plan = Plan(variant=tiny, depths=(1, 2))
    result = reproduce_layers(place, data, towers, plan)
    names = [model["name"] for model in result["models"]]
    assert names[:3] == [FIRST, LAST, BUILTIN] and names[-1] == COLOURS and len(names) == len(set(names)) == 3 + 8 + 5
    depths = {(row["model"], row["task"]): row["layers"] for row in result["curves"]}
    assert depths[BUILTIN, "tracking"] == measured_layers(12)
    assert depths[tower_name(2, POOLS[0], "long"), "tracking"] == [0, 1]
    assert (COLOURS, "tracking") in depths and (COLOURS, "classification") not in depths
    assert len({model["weights"] for model in result["models"]}) == len(names)
    assert json.loads(place.result.read_text()) == result
    assert not any((place.runs / "features").iterdir())  # gigabytes, in a real run

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("something was made again")

    monkeypatch.setattr("perception_encoder.recipes.reproduction.carry_out", fail)
    monkeypatch.setattr("perception_encoder.recipes.layer_subjects.run_sweep", fail)
    assert reproduce_layers(place, data, towers, plan) == result
    assert page(result, "layers.png").count("\n| random, 2 layers |") == 1 + len(TASKS)
    draw(result, tmp_path / "layers.png")
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")
