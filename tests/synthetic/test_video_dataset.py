"""A released dataset: splits, simulated refinements that are labelled so, and captions scored against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from perception_encoder.datasets.captioned import load_benchmark
from perception_encoder.datasets.pe_video import read_videos_of
from perception_encoder.evaluation.statistics.scores import estimate
from perception_encoder.preprocess.conversation import Message, Reply
from perception_encoder.preprocess.video import read_frames
from perception_encoder.video_dataset.dataset import DatasetStatistics
from synthetic.video_dataset.build import BuildConfig, build_dataset
from synthetic.video_dataset.caption_accuracy import score_captions
from synthetic.video_dataset.simulation import SimulatedAnnotator
from synthetic.video_dataset.truth import SceneTruth
from tests.data.tars import load_webdataset

pytestmark = pytest.mark.skipif(find_spec("pybullet") is None, reason="pybullet is not installed")
CONFIG = BuildConfig(count=10, side=32, frames=16, seed=3, test=0.2, extended=0.2)


class Captioner:
    """Says the same about every video."""

    name = "same"

    def generate(self, conversations: Sequence[Sequence[Message]], sampling: object = None) -> list[Reply]:
        return [Reply("A dog chases a cat.", 1, 1, True) for _ in conversations]


@pytest.fixture(scope="module")
def library():
    from synthetic.scenes.samples.production import load_object_library

    return load_object_library(None)


@pytest.fixture(scope="module")
def built(library, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DatasetStatistics]:
    out = tmp_path_factory.mktemp("built") / "clips"
    return out, build_dataset(library, out, CONFIG, jobs=1)


def test_splits_and_fields(built: tuple[Path, DatasetStatistics], tmp_path: Path) -> None:
    out, statistics = built
    for split in ("train", "test", "extended"):
        load_webdataset(out / split, tmp_path)
    assert {split: table.videos for split, table in statistics.splits.items()} == {
        "train": 6,
        "test": 2,
        "extended": 2,
        "all": 10,
    }
    records = list(read_videos_of(out))
    for record in records:
        assert record.metadata["human_caption"] == "" and record.duration == 2 and record.frame_rate == 8
        assert record.metadata["category_name"] in ("Close-up Shots", "Object Interactions")
        assert 0 <= record.metadata["interest_score"] <= 5 and record.metadata["keywords"]
        described = record.split != "extended"
        assert bool(record.model_caption) == bool(record.refined_caption) == described
        assert record.refined_by == ("simulated" if described else "")
    assert read_frames(records[0].video.read("v"), frames=2).frame_count == 16
    assert len({record.key for record in records}) == 10 and statistics.splits["all"].simulated == 8
    assert len(load_benchmark(out).keys) == 2


def test_a_models_captions_are_refined_too(library, tmp_path: Path) -> None:
    build_dataset(library, tmp_path / "out", CONFIG, Captioner(), jobs=1)
    record = next(read_videos_of(tmp_path / "out", "test"))
    assert record.model_caption == "A dog chases a cat." and record.metadata["model_caption_by"] == "same"
    assert record.refined_caption and record.refined_by == "simulated"
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        "by the model `same`" in card and "--frames 16 --captioner same" in card and "| objects | – | 0.0 % |" in card
    )


def test_a_dataset_is_built_once(run_module, run_pe, tmp_path: Path) -> None:
    arguments = ("video_dataset", "-o", tmp_path / "clips", "--count", 10, "--size", 32, "--frames", 16, "--jobs", 1)
    run = run_module(*arguments)
    assert run.status == 0 and "10 videos, 8 with refined captions (simulated)" in " ".join(run.stdout.split())
    assert "all\t10\t8\t8\t2.0±0.0" in run_pe("video-dataset", "stats", tmp_path / "clips").stdout
    again = run_module(*arguments)
    assert again.status == 2 and "is not empty" in again.stderr


KNOWN = ("lamp", "crate", "dog")
TRUTHS = {
    "one": SceneTruth((("lamp", "red"), ("crate", "blue")), (("lamp", "tips over"), ("crate", "falls")), False),
    "two": SceneTruth((("dog", "white"),), (), False),
}


def scores_of(captions: dict[str, str]) -> dict[str, float]:
    return {score.metric: estimate([score]).value for score in score_captions(captions, TRUTHS, KNOWN)}


def test_what_is_said_is_counted() -> None:
    """Of four objects three are there; of the three that are there all are said; and so on."""
    captions = {"one": "A green lamp tips over. A blue crate rolls. A white dog.", "two": "A white dog."}
    assert scores_of(captions) == pytest.approx(
        {
            "objects precision": 3 / 4,
            "objects recall": 3 / 3,
            "colours precision": 2 / 4,
            "colours recall": 2 / 3,
            "actions precision": 1 / 2,
            "actions recall": 1 / 2,
            "events precision": 1 / 2,
            "events recall": 1 / 2,
        }
    )


CLASSES = ("lamp", "crate", "ball", "soccer ball", "orange crate", "dog")
TRUTH = SceneTruth(
    (("lamp", "red"), ("crate", "blue"), ("ball", "green"), ("ball", "white")),
    (("lamp", "tips over"), ("crate", "is pushed")),
    False,
)
TRUE = "A red lamp tips over. A blue crate is pushed across the floor."
BALLS = "There are two balls."
ANNOTATOR = SimulatedAnnotator(CLASSES)


@pytest.mark.parametrize(
    ("caption", "refined", "changes"),
    [
        (TRUE, TRUE, (0, 0, 0)),
        ("A red lamp tips over. A dog runs away. The blue crate is pushed across the floor.", None, (1, 0, 0)),
        ("A green lamp tips over. A blue crate is pushed across the floor.", TRUE, (0, 1, 0)),
        ("A red lamp tips over. An orange crate is pushed across the floor.", TRUE, (0, 1, 0)),
        ("A dog tips over. A blue crate is pushed across the floor.", TRUE, (0, 1, 0)),
        ("A red lamp rolls. A blue crate is pushed across the floor.", TRUE, (0, 1, 0)),
        ("A red lamp tips over.", TRUE, (0, 0, 1)),
        ("", TRUE, (0, 0, 2)),
        ("A soccer ball rolls. A dog sleeps.", TRUE, (2, 0, 2)),
        ("An orange ball is there. " + TRUE, f"A ball is there. {TRUE}", (0, 1, 0)),
    ],
)
def test_what_is_done(caption: str, refined: str | None, changes: tuple[int, int, int]) -> None:
    result = ANNOTATOR.refine(f"{BALLS} {caption}", TRUTH)
    expected = refined or TRUE.replace(" A blue", " The blue")
    assert (result.caption, result.removed, result.corrected, result.added) == (f"{BALLS} {expected}", *changes)
