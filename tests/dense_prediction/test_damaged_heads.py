"""Damaged heads' files: one line that names the file, and no memory for what a file merely claims."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

from perception_encoder.dense_prediction.dense_model import (
    METADATA,
    Backbone,
    DenseModel,
    HeadInfo,
    load_read_head,
    make_head,
    read_head_info,
    write_head,
)
from perception_encoder.dense_prediction.depth import DepthHeadConfig
from perception_encoder.dense_prediction.detection.detr import DetrHeadConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectorHeadConfig
from perception_encoder.dense_prediction.segmentation import SegmentationHeadConfig
from perception_encoder.errors import CheckpointError, ConfigError, ModelError, PerceptionEncoderError
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.tower import Tower

TOWER = Tower.of(create_model("builtin"))
HEADS = {
    "depth": DepthHeadConfig(channels=8),
    "segmentation": SegmentationHeadConfig(kernel=3),
    "detection": DetectorHeadConfig(channels=8, hidden=16, regions=16),
    "detr": DetrHeadConfig(channels=32, layers=1, hidden=16, queries=10),
}


def open_tower(name: str) -> Tower:
    return TOWER


def describe(task: str = "depth") -> HeadInfo:
    return HeadInfo(
        task=task,
        encoder="builtin",
        weights=TOWER.weight_hash,
        layer=1,
        image_size=64,
        head=asdict(HEADS[task]),
        classes=("a", "b"),
        class_ids=(4, 9),
    )


def open_head(path: Path, open_tower: Callable[[str], Tower], model: str | None = None) -> None:
    load_read_head(path, *read_head_info(path), open_tower, model)


def write(path: Path, task: str = "depth") -> dict[str, Any]:
    """Write a head; return its description."""
    info = describe(task)
    write_head(path, DenseModel(Backbone(TOWER, 1, frozen=True), make_head(info, TOWER.width)), info)
    return json.loads(json.dumps(asdict(info)))


def rewrite(path: Path, description: str) -> None:
    save_file(load(path.read_bytes()), path, {METADATA: description})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_size", 4097, "image_size is 4097; it must be from 1 to 4096"),
        ("image_size", 10**9, "image_size is 1000000000; it must be from 1 to 4096"),
        ("image_size", "64", "image_size is '64'; expected an integer"),
        ("layer", -1, "layer is -1; it must be from 0"),
        ("layer", 12, "layer 12 does not exist; builtin has layers 0 to 11"),
        ("classes", 3, "classes is 3; expected a list"),
        ("class_ids", [1], "class_ids has 1 entries; there are 2 classes"),
        ("head", None, "head is None; expected an object"),
        (
            "head",
            {"channels": 8.5},
            "do not fit its task, depth: channels is 8.5; expected an integer",
        ),
        ("head", {"channels": 30_000}, r"head\.\S+ is \(8,\) in the file, and \(30000,\) by its settings"),
        (
            "head",
            {"nearest": None},
            "do not fit its task, depth: nearest is None; expected a number",
        ),
        ("windows", {"size": 2, "global_blocks": None}, r"windows\.global_blocks is None; expected a list"),
        ("windows", [], r"windows is \[\]; expected an object"),
        ("finetuned", "yes", "finetuned is 'yes'; expected true or false"),
        ("surprise", 1, "surprise is unknown; known: task, encoder, weights"),
        ("encoder", None, "encoder is None; expected a string"),
    ],
)
def test_a_bad_field_is_named(name: str, value: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    description = write(path)
    rewrite(path, json.dumps({**description, name: value}))
    with pytest.raises(CheckpointError, match=rf"head\.safetensors[: ][^\n]*{message}"):
        open_head(path, open_tower)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, '{"task": NaN}'])
def test_a_description_that_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    write(path)
    rewrite(path, text)
    with pytest.raises(CheckpointError, match=r"the description of the head is damaged .*; train or download the"):
        open_head(path, open_tower)


@pytest.mark.parametrize("encoder", ["timm:local-dir:/tmp/x", "hf:a/b", "open_clip:a,b", "/tmp/model.pt", "x"])
def test_a_file_names_only_encoders_of_this_package(encoder: str, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    description = write(path)
    rewrite(path, json.dumps({**description, "encoder": encoder}))
    opened = list[str]()
    with pytest.raises(ConfigError, match=r"names the encoder '.*', which is not a model of this package; if"):
        open_head(path, lambda name: opened.append(name) or TOWER)
    assert not opened
    open_head(path, lambda name: opened.append(name) or TOWER, model=encoder)
    assert opened == [encoder]


@pytest.mark.parametrize("task", HEADS)
def test_damage_never_ends_in_a_traceback(task: str, tmp_path: Path) -> None:
    """Seeded: fields replaced, taken away or added, tensors replaced, bytes changed, files cut."""
    path, damaged = tmp_path / "head.safetensors", tmp_path / "damaged.safetensors"
    description = write(path, task)
    whole, tensors = path.read_bytes(), load(path.read_bytes())
    values = [None, -1, 0, 2, 1e300, 10**20, float("nan"), "", "x", [], ["a"], [None], {}, {"size": 1}, True, "\udc80"]
    choose = random.Random(task)
    for _ in range(30):
        kind = choose.randrange(5)
        if kind < 2:
            windows = choose.choice([None, {"size": 2, "global_blocks": [1], "patch_size": 16, "tile": None}])
            changed = {**description, "windows": windows, "head": dict(description["head"])}
            inner = choose.choice([changed, changed["head"], windows or changed])
            name = choose.choice([*inner, "new"])
            inner[name] = choose.choice(values)
            if choose.random() < 0.2:
                del inner[name]
            save_file(tensors, damaged, {METADATA: json.dumps(changed)})
        elif kind == 2:
            name = choose.choice(list(tensors))
            other = choose.choice([torch.zeros(3), torch.zeros(0), torch.zeros(1, dtype=torch.int64)])
            changed = {**tensors, choose.choice([name, "head.more"]): other}
            save_file(changed, damaged, {METADATA: json.dumps(description)})
        elif kind == 3:
            content = bytearray(whole)
            for _ in range(choose.choice([1, 30])):
                content[choose.randrange(choose.choice([200, len(content)]))] = choose.randrange(256)
            damaged.write_bytes(content)
        else:
            damaged.write_bytes(whole[: choose.randrange(len(whole))])
        try:
            open_head(damaged, open_tower)
        except PerceptionEncoderError as error:
            assert isinstance(error, ModelError | ConfigError) and "damaged.safetensors" in str(error)
            assert "\n" not in str(error)
