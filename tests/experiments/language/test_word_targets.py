"""Which word each patch shows: masks of scenes, words and digits of documents, labels."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.language.word_targets import BACKGROUND, IGNORED, WordNumbers
from perception_encoder.formats.shards import write_members
from synthetic.documents.production import DocumentsConfig, write_documents
from tests.evaluation.colours import write_colours


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """One scene of 64 px: a blue mug in the left half of the upper half."""
    mask = np.zeros((64, 64), np.uint8)
    mask[:32, :32] = 3
    scene = {
        "width": 64,
        "height": 64,
        "objects": [{"id": 3, "kind": "mug", "colour": "blue", "box": [0, 0, 32, 32]}],
    }
    members = [
        ("a.jpg", encoded(np.zeros((64, 64, 3), np.uint8), "JPEG")),
        ("a.mask.png", encoded(mask, "PNG")),
        ("a.json", json.dumps(scene).encode()),
    ]
    write_members(tmp_path / "scenes" / "00000.tar", members)
    return tmp_path / "scenes"


def test_scenes(scenes: Path) -> None:
    numbers = WordNumbers.of([scenes], [], [])
    assert numbers.words == ["_", "mug", "blue"] and numbers.colours == [2]
    (scene,) = numbers.scenes([scenes], grid=4)
    expected = np.zeros((4, 4))
    expected[:2, :2] = numbers.numbers["mug"]
    assert scene.patches.reshape(4, 4).tolist() == expected.tolist()
    assert (scene.colours.reshape(4, 4)[:2, :2] == 0).all() and (scene.colours == IGNORED).sum() == 12
    boxes = scene.boxes.reshape(4, 4, 4)
    assert (boxes[:2, :2] == [0, 0, 50, 50]).all() and (boxes[2:] == IGNORED).all()
    mirrored = scene.mirrored()
    assert (mirrored.boxes.reshape(4, 4, 4)[:2, 2:] == [49, 0, 99, 50]).all()
    assert mirrored.patches.reshape(4, 4).tolist() == expected[:, ::-1].tolist()
    assert mirrored.mirrored().patches.tolist() == scene.patches.tolist()


def test_documents(tmp_path: Path) -> None:
    config = DocumentsConfig(count=30, size=224, kinds=("receipt",), look="clean", lines=1, text_height=18)
    write_documents(tmp_path, config, jobs=1)
    file = tmp_path / "train" / "words.jsonl"
    numbers = WordNumbers.of([], [file], [])
    digits = set("0123456789") & set(numbers.words)
    assert {"total", "0", "."} <= set(numbers.words) and len(digits) > 5
    rows = numbers.documents([file], grid=14)
    fields = json.loads(file.read_text().splitlines()[0])
    (box,) = [word["box"] for word in fields["words"] if word["text"].lower() == "total"]
    middle = int((box[1] + box[3]) / 2 // 16) * 14 + int((box[0] + box[2]) / 2 // 16)
    assert rows[0].patches[middle] == numbers.numbers["total"]
    assert not rows[0].symmetric and rows[0].patches[0] in (BACKGROUND, IGNORED)
    used = {numbers.words[number] for row in rows for number in row.patches if number >= 0}
    assert digits <= used


def test_labels(tmp_path: Path) -> None:
    write_colours(tmp_path / "train.tar", "flowers", ["red rose", "blue rose"])
    shards = [tmp_path / "train.tar"]
    numbers = WordNumbers.of([], [], shards)
    labels = [numbers.words[row.label] for row in numbers.labelled(shards, grid=2)]
    assert labels == ["red rose", "blue rose"]
