"""The evaluation of the built-in language model: rows, baselines and records."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.language.builtin import AIMS, BLIND, MODEL, NEAREST, evaluate_builtin
from perception_encoder.formats.shards import write_members
from synthetic.documents.production import DocumentsConfig, write_documents
from tests.evaluation.language.answerers import RuleAnswerer, refuse

TYPES = ("exists", "relation", "count", "colour", "which", "where")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Scenes that are plain colours, and receipts."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        members: list[tuple[str, bytes]] = []
        for number in range(4):
            stream = io.BytesIO()
            Image.fromarray(np.full((32, 32, 3), generator.integers(0, 255, 3), np.uint8)).save(stream, "JPEG")
            scene = {
                "caption": [f"a mug {number}"],
                "width": 32,
                "height": 32,
                "questions": [{"type": name, "question": f"Which {name}?", "answer": "yes"} for name in TYPES],
                "objects": [{"kind": "mug", "box": [0, 0, 16, 32]}],
            }
            members += [
                (f"{split}{number}.jpg", stream.getvalue()),
                (f"{split}{number}.json", json.dumps(scene).encode()),
            ]
        write_members(root / split / "00000.tar", members)
    write_documents(root / "documents", DocumentsConfig(count=3, split="test", size=224, kinds=("receipt",)), jobs=1)
    return {"scenes": root, "documents": root / "documents"}


def answer(images: Sequence[Image.Image], question: str) -> str:
    """Right about boxes and yes, if there is an image."""
    if not images:
        return "no"
    return "[000, 000, 500, 999]" if "box" in question else "yes"


def test_rows_and_records(data: dict[str, Path], tmp_path: Path) -> None:
    model = RuleAnswerer(answer)
    result = evaluate_builtin(tmp_path / "r.json", tmp_path / "runs", model, data, items=3)
    rows = {row["name"]: row for row in result["splits"]["test"]}
    assert list(rows) == [aim.name for aim in AIMS]
    for name in ("how many?", "box of an object"):
        assert rows[name]["scores"][MODEL]["value"] == 1 and rows[name]["scores"][BLIND]["value"] == 0
        assert rows[name]["scores"][MODEL]["n"] == 3
    assert rows["total of a receipt"]["metric"] == "ANLS"
    assert NEAREST in rows["captions"]["scores"]
    count = len(list((tmp_path / "runs").glob("*.jsonl")))
    assert count == 2 * len(AIMS)
    again = evaluate_builtin(tmp_path / "r.json", tmp_path / "runs", RuleAnswerer(refuse), data, items=3)
    assert again == result, "answers come from the records"
