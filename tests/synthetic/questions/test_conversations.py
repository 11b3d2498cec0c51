"""Conversations of rendered scenes, by themselves and in shards."""

from __future__ import annotations

import json
import pickle
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.data.conversations import open_conversations
from perception_encoder.errors import DataError
from perception_encoder.preprocess.frames import VideoFrames
from synthetic.questions.conversations import SceneRecords, scene_conversations
from tests.clips import clip
from tests.data.tars import image_bytes, write_tar


def test_boxes_of_scenes() -> None:
    objects = [
        {"kind": "mug", "box": [12.0, 0.0, 64.0, 128.0]},
        {"kind": "chair", "box": [0, 0, 1, 1]},
        {"kind": "chair", "box": [2, 2, 3, 3]},
        {"kind": "lamp", "box": [-3, 63.9, 20, 130]},
    ]
    questions = [{"question": "Q", "answer": "A"}]
    scene = {"objects": objects, "width": 128, "height": 128, "caption": ["c"], "questions": questions}
    boxes = (
        ("user", "Give the box of the mug."),
        ("assistant", "[093, 000, 500, 999]"),
        ("user", "Give the box of the lamp."),
        ("assistant", "[000, 499, 156, 999]"),
    )
    asked, described, boxed = scene_conversations(scene)
    assert asked == (("user", "<image>Q"), ("assistant", "A"))
    assert described == (("user", "<image>Provide a one-sentence caption for the provided image."), ("assistant", "c"))
    assert boxed == (("user", f"<image>{boxes[0][1]}"), *boxes[1:])
    assert scene_conversations(scene, apart=True) == [(*asked, ("user", described[0][1][7:]), described[1], *boxes)]
    assert scene_conversations({}, apart=True) == []
    assert len(scene_conversations(scene, "video")) == 2, "a video's boxes are of its last frame"
    for bad in ({**scene, "width": None}, {**scene, "objects": [{"kind": "mug", "box": ["a", 0, 0, 0]}]}):
        with pytest.raises(DataError, match="the box of the mug is"):
            scene_conversations(bad)


def test_scenes_in_shards(tmp_path: Path) -> None:
    scene = {
        "source": "scenes",
        "label": "a cup",
        "caption": ["a cup", "a cup left of a plate", "The image_bytes shows a cup and a plate."],
        "questions": [{"question": "How many cups are there?", "answer": "1"}, {"question": "Big?", "answer": "no"}],
    }
    content = json.dumps(scene).encode()
    write_tar(
        tmp_path / "train" / "0.tar",
        {"s0.jpg": image_bytes(9, "JPEG"), "s0.mask.png": image_bytes(0), "s0.json": content},
    )
    write_tar(tmp_path / "train" / "1.tar", {"s1.mp4": clip(30), "s1.json": content})
    data = open_conversations(tmp_path / "train", read_shard=SceneRecords)
    assert [sample.key for sample in data] == [f"s{tar}/{n}" for tar in (0, 1) for n in range(2)]
    assert data.sizes == [2, 2]
    separate = open_conversations(tmp_path / "train", read_shard=partial(SceneRecords, apart=True))
    assert [sample.key for sample in separate] == ["s0/0", "s1/0"]
    assert [sample.key for sample in pickle.loads(pickle.dumps(separate))] == ["s0/0", "s1/0"]
    assert [text for _, text in data[0].turns[:4]] == ["<image>How many cups are there?", "1", "Big?", "no"]
    assert data[0].turns[4:] == (("user", "Describe the image in detail."), ("assistant", scene["caption"][2]))
    assert data[3].turns[:2] == (
        ("user", "<video>Provide a one-sentence caption for the provided video."),
        ("assistant", "a cup"),
    )
    assert isinstance(data[0].messages()[0].content[0], Image.Image)
    assert isinstance(data[3].messages(2)[0].content[0], VideoFrames)
    parts = data.split(0.5)
    assert sorted(len(part) for part in parts) in ([0, 4], [2, 2])  # a scene's conversations lie in one part


def test_a_bad_scene_is_named(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"c.png": image_bytes(1), "c.json": b'{"questions": 1}'})
    ((_, error),) = SceneRecords(tar).scan()
    assert str(error) == f"{tmp_path}/a.tar/c: a scene: `questions` is 1; it must be a list of objects"
