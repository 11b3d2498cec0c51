"""A released dataset: three splits, simulated refinements that are labelled so, and the same bytes by seed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from perception_encoder.datasets.captioned import load_benchmark
from perception_encoder.datasets.pe_video import read_videos_of
from perception_encoder.preprocess.conversation import Message, Reply
from perception_encoder.preprocess.video import read_frames
from perception_encoder.video_dataset.statistics import DatasetStatistics
from synthetic.video_dataset.build import BuildConfig, build_dataset
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
