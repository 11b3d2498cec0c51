"""Small data for the layers in small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.layers.tasks import LayerData
from perception_encoder.formats.shards import write_members
from tests.evaluation.colours import write_colours
from tests.evaluation.layers import discs, png, write_video


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
