"""Language alignment in small: its runs, the built-in model's evaluation, words and labelled images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.findings import GAINS, WHEN, language_gaps
from experiments.language import run as experiment
from experiments.language.alignment import Alignment
from experiments.language.builtin import AIMS, BLIND, MODEL, NEAREST, evaluate_builtin
from experiments.language.labelled import YES_OR_NO, write_labelled
from experiments.language.run import BASE, ROWS, Sizes, reproduce_language
from experiments.language.word_targets import IGNORED, Labelled
from experiments.language.words import (
    WordConfig,
    align_words,
)
from perception_encoder.data.conversations import open_conversations
from perception_encoder.errors import DataError
from perception_encoder.formats.shards import write_members
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.run import LanguageTrainee
from perception_encoder.language_models.weights import read_trained
from perception_encoder.layer_analysis.question_task import QuestionTask
from perception_encoder.preprocess.image import image_file
from perception_encoder.training.optimizer import OptimizerConfig
from synthetic.documents.production import DocumentsConfig, write_documents
from tests.evaluation.colours import write_colours
from tests.evaluation.language.answerers import RuleAnswerer, refuse
from tests.tiny_language_models import write_tiny_decoder

SIZES = Sizes(side=32, train=8, test=4, epochs=1, alignment=Alignment(side=32, steps=2, batch_size=4, texts=2))
NAMES = (BASE, "linear projector", "the same, frozen", "language model trained on texts first", "aligned encoder")


def sample(key: str, pixels: np.ndarray, scene: dict[str, Any]) -> list[tuple[str, bytes]]:
    """The members of a scene in a tar."""
    return [(f"{key}.jpg", image_file(Image.fromarray(pixels), "JPEG")), (f"{key}.json", json.dumps(scene).encode())]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of one object each."""
    root = tmp_path_factory.mktemp("scenes")
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        members: list[tuple[str, bytes]] = []
        for number in range(count):
            pixels = generator.integers(0, 255, (32, 32, 3), np.uint8)
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
            members += sample(f"{split}{number}", pixels, scene)
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
        patch.setattr(QuestionTask, "fit", None)
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


TYPES = ("exists", "relation", "count", "colour", "which", "where")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Scenes that are plain colours, and receipts."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        members: list[tuple[str, bytes]] = []
        for number in range(4):
            pixels = np.full((32, 32, 3), generator.integers(0, 255, 3), np.uint8)
            scene = {
                "caption": [f"a mug {number}"],
                "width": 32,
                "height": 32,
                "questions": [{"type": name, "question": f"Which {name}?", "answer": "yes"} for name in TYPES],
                "objects": [{"kind": "mug", "box": [0, 0, 16, 32]}],
            }
            members += sample(f"{split}{number}", pixels, scene)
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


WORDS = ["_", "red", "blue"]


@pytest.fixture
def config(tmp_path: Path) -> WordConfig:
    decoder = str(write_tiny_decoder(tmp_path / "decoder"))
    model = LanguageConfig(decoder=decoder, context=300, image_size=32, pool=1)
    optimizer = OptimizerConfig(name="adamw", lr=3e-3)
    return WordConfig(model=model, steps=20, batch_size=8, warmup=2, log_every=1, optimizer=optimizer)


def images(count: int) -> list[Labelled]:
    """Images of 32 px that are red on one side and blue on the other."""
    rows, generator = [], np.random.default_rng(0)
    for number in range(count):
        colours = generator.integers(2, size=(2, 2))
        pixels = np.zeros((2, 2, 3), np.uint8)
        pixels[colours == 0, 0], pixels[colours == 1, 2] = 220, 220
        image = image_file(Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST), "PNG")
        words = (1 + colours).ravel().astype(np.int16)
        none, boxes = np.full(4, IGNORED, np.int16), np.full((4, 4), IGNORED, np.int16)
        boxes[0] = 0, 0, 49, 49
        rows.append(Labelled(str(number), image, words, none if number % 2 else colours.ravel(), boxes))
    return rows


def test_a_run_writes_what_a_later_stage_reads(config: WordConfig, tmp_path: Path) -> None:
    labelled = [replace(image, patches=image.colours, label=1) for image in images(4)]
    path = align_words(config, {"scenes": images(40), "labelled": labelled}, WORDS, [1, 2], tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == config.steps and rows[-1]["scenes"] < 0.6 * rows[0]["scenes"]
    parts, weights = read_trained(path)
    assert {name.split(".")[0] for name in weights} == {"projector", "vision"} and parts.pool == 1
    later = LanguageTrainee.of(replace(config.model, initial=str(path)))
    assert later.vision_trained and not later.decoder_trained


def test_conversations(tmp_path: Path) -> None:
    write_colours(tmp_path / "photos" / "train.tar", "flowers", ["red rose", "green rose", "blue rose"] * 4)
    write_colours(tmp_path / "photos" / "test.tar", "flowers", ["white rose"])
    write_colours(tmp_path / "drawings" / "train" / "noto.tar", "noto", ["red hat", "blue hat"] * 3)
    write_colours(tmp_path / "drawings" / "unseen" / "openmoji.tar", "openmoji", ["red hat"])
    out = tmp_path / "conversations.tar"
    count = write_labelled([tmp_path / "photos", tmp_path / "drawings"], "train", out)
    data = open_conversations(out)
    assert len(data) == count >= 13
    for sample in data:
        turns = dict(zip(*[iter(text for _, text in sample.turns)] * 2, strict=True))
        texts = {question.removeprefix("<image>"): answer for question, answer in turns.items()}
        drawn = texts["Is this a photo or a drawing?"] == "a drawing"
        assert drawn == (sample.key.startswith("noto"))
        noun = texts.get("What is in the image?", "")
        names = [question for question in texts if question.startswith("Is there ")]
        assert 1 <= len(names) <= YES_OR_NO
        for question in names if noun else ():
            assert (texts[question] == "yes") == (noun in question)
    with pytest.raises(DataError, match="two are needed"):
        write_labelled([tmp_path / "drawings"], "unseen", out)
    first = out.read_bytes()
    write_labelled([tmp_path / "photos", tmp_path / "drawings"], "train", out)
    assert out.read_bytes() == first
