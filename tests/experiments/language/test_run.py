"""Table 9 and figure 13 in small, on a few plain images: all is run, cached and written."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.findings import GAINS, WHEN, language_gaps
from experiments.language import run as experiment
from experiments.language.alignment import Alignment
from experiments.language.run import BASE, ROWS, Sizes, reproduce_language
from perception_encoder.formats.shards import write_members
from perception_encoder.language_alignment.question_task import QuestionTask

SIZES = Sizes(side=32, train=8, test=4, epochs=1, alignment=Alignment(side=32, steps=2, batch_size=4, texts=2))
NAMES = (BASE, "linear projector", "the same, frozen", "language model trained on texts first", "aligned encoder")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of one object each."""
    root = tmp_path_factory.mktemp("scenes")
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        members: list[tuple[str, bytes]] = []
        for number in range(count):
            stream = io.BytesIO()
            Image.fromarray(generator.integers(0, 255, (32, 32, 3), np.uint8)).save(stream, "JPEG")
            name = ("mug", "lamp")[number % 2]
            question = {"type": "exists", "question": "Is there a mug?", "answer": "no" if number % 2 else "yes"}
            scene = {
                "source": "scenes",
                "label": name,
                "width": 32,
                "height": 32,
                "caption": [f"a {name}", f"The picture shows a {name}."],
                "questions": [question],
                "objects": [{"kind": name, "box": [2, 3, 20, 30]}],
            }
            members += [
                (f"{split}{number}.jpg", stream.getvalue()),
                (f"{split}{number}.json", json.dumps(scene).encode()),
            ]
        write_members(root / split / "00000.tar", members)
    return root


@pytest.fixture(scope="module")
def result(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The experiment, run once and then again from its cache."""
    directory = tmp_path_factory.mktemp("language")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "ROWS", [row for row in ROWS if row.name in NAMES])
        patch.setattr(experiment, "LAYERS", (5, 11))
        first = reproduce_language(directory / "language.json", directory / "runs", scenes, SIZES)
        patch.setattr(QuestionTask, "_score", None)
        again = reproduce_language(directory / "language.json", directory / "runs", scenes, SIZES)
    assert first == again, "a finished run is read from its cache"
    return first


def test_rows_and_curves(result: dict[str, Any]) -> None:
    assert [row["name"] for row in result["table"]] == [row.name for row in ROWS if row.name in NAMES]
    for row in result["table"]:
        assert all(len(score["by_seed"]) == 2 for score in row["scores"].values())
        assert bool(row["differences"]) == (row["name"] != BASE)
    assert [(curve["when"], curve["metric"]) for curve in result["curves"]] == [
        (when, metric) for when in ("before", "after") for metric in ("questions", "boxes", "captions")
    ]
    assert all(curve["layers"] == [5, 11] for curve in result["curves"])
    assert list(result["gains"]) == ["questions", "boxes", "captions"]


def test_differences(result: dict[str, Any]) -> None:
    named = {row.name for row in ROWS if row.name in NAMES} - {BASE}
    keys = {(name, metric) for name in named for metric in ("questions", "boxes")}
    keys |= {(name, metric) for name in (GAINS, *WHEN) for metric in ("questions", "boxes", "captions")}
    assert language_gaps(json.loads(json.dumps(result))).keys() == keys
