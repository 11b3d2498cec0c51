"""Videos in small: captions and what finetuning on them adds, and the score of interest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.findings import video_gaps
from experiments.video import finetuning
from experiments.video import run as experiment
from experiments.video.captions import Captions
from experiments.video.clips import Clip
from experiments.video.interest import reproduce_interest
from experiments.video.run import ALL, ARMS, FIRST, NEW_CLIPS, NEW_OBJECTS, NOTHING, REFINED, Sizes, reproduce_video
from perception_encoder.data.pairs import ResolutionStage
from perception_encoder.pretraining.recipes import video_finetune_builtin
from perception_encoder.video_dataset.features import MOTION, FeatureTable
from tests.video_dataset.clips import fields, write_dataset

SIZES = Sizes(refined=4, refinement_steps=1, train=8, growth=(4,), summaries=2, steps=1)
ACTIONS = ("falls", "rolls", "is pushed", "tips over")


def video(number: int) -> tuple[str, dict[str, Any]]:
    """A clip of a lamp or a crate, on which something happens."""
    kind, other = (("lamp", "crate"), ("crate", "lamp"))[number % 2]
    objects = [{"id": 1, "kind": kind, "colour": "red"}, {"id": 2, "kind": other, "colour": ""}]
    events = [{"action": ACTIONS[number % 4], "object": 1, "start": 0.0, "end": 1.0}]
    return f"v{number:02}", fields(None, objects=objects, events=events)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    splits = {"train": [[video(n) for n in range(12)]], "test": [[video(n) for n in range(12, 16)]]}
    return write_dataset(tmp_path_factory.mktemp("dataset"), splits)


def told(clips: Sequence[Clip], out: Path, captioner: Path, *rest: object) -> dict[str, Captions]:
    """Captions of the objects, and of the first event if the captioner was refined."""
    captions = {}
    for clip in clips:
        name, action = clip.truth.events[0]
        video = f"A red {name} {action}." if captioner.name == "second" else "A photo of a dog"
        captions[clip.key] = Captions(clip.key, video, ("a lamp", "a lamp") if rest else (), "a summary")
    return captions


@pytest.fixture(scope="module")
def result(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The experiment, run once and then again from its cache."""
    directory = tmp_path_factory.mktemp("video")
    stages = (ResolutionStage(image_size=32, steps=1),)
    small = dataclasses.replace(video_finetune_builtin(), stages=stages, warmup=0, batch_size=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "caption", told)
        patch.setattr(experiment, "first_captioner", lambda out: Path("first"))
        patch.setattr(experiment, "refined_captioner", lambda *_: Path("second"))
        patch.setattr(finetuning, "video_finetune_builtin", lambda: small)
        arguments = directory / "video.json", directory / "runs", dataset, None, SIZES
        first = reproduce_video(*arguments)
        patch.setattr(finetuning.VideoEvaluation, "run", None)
        patch.setattr(experiment, "train_arm", lambda shard, out, *_: out / "model.safetensors")
        assert reproduce_video(*arguments) == first, "a finished run is read from its cache"
    return first


def test_captions_are_scored_against_the_truth(result: dict[str, Any]) -> None:
    rows = {(row["set"], row["captions"], row["metric"]): row["value"] for row in result["captions"]}
    for name in (NEW_CLIPS, NEW_OBJECTS):
        assert rows[name, FIRST, "objects recall"] == rows[name, FIRST, "events recall"] == 0
        assert rows[name, REFINED, "objects precision"] == rows[name, REFINED, "events precision"] == 1
        assert rows[name, REFINED, "objects recall"] == 0.5


def test_every_arm_has_scores_over_two_seeds(result: dict[str, Any]) -> None:
    assert result["clips"] == {NEW_CLIPS: 4, NEW_OBJECTS: 4}
    names = [row["name"] for row in result["table"]]
    assert f"{NEW_CLIPS}: video actions" in names and f"{NEW_OBJECTS}: text to image R@5" in names and len(names) == 14
    for row in result["table"]:
        assert list(row["scores"]) == [NOTHING, *ARMS]
        assert all(len(score["by_seed"]) == 2 for score in row["scores"].values())
    for row in result["growth"]:
        assert row["clips"] == [0, 4, 8] and len(row["values"]) == 3
        (whole,) = (item for item in result["table"] if item["name"] == row["name"])
        assert row["values"][-1] == whole["scores"][ALL]


def test_differences(result: dict[str, Any]) -> None:
    assert len(video_gaps(json.loads(json.dumps(result)))) == 14 * 5


TRAIN, TEST = 60, 30


def happening(number: int) -> tuple[str, dict[str, Any]]:
    """A video of one to four events; in some the last is an orbit of the camera."""
    count = 1 + number % 4
    events = [{"action": "falls", "object": 1, "start": 0.0, "end": 1.0}] * count
    if number % 3 == 0:
        events = [*events[1:], {"action": "orbits", "object": None, "start": 0.0, "end": 2.0}]
    return f"v{number:02}", fields(None, objects=[{"id": 1, "kind": "lamp", "colour": ""}], events=events)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FeatureTable]:
    """A dataset, and features whose first tells the number of events unless the camera moves."""
    videos = {"train": [happening(n) for n in range(TRAIN)], "test": [happening(n) for n in range(TEST)]}
    data = write_dataset(tmp_path_factory.mktemp("interest"), {split: [video] for split, video in videos.items()})
    rng = np.random.default_rng(0)
    values = rng.normal(size=(TRAIN + TEST, len(MOTION)))
    told = [len(fields["events"]) if n % 3 else 2.5 for video in videos.values() for n, (_, fields) in enumerate(video)]
    values[:, 0] = told + rng.normal(0, 0.1, TRAIN + TEST)
    keys = tuple(f"{split}/{key}" for split, video in videos.items() for key, _ in video)
    return data, FeatureTable(keys, MOTION, values, rng.normal(size=(TRAIN + TEST, 3, 4)).astype(np.float32))


def test_videos_that_were_not_scored_are_correlated(known: tuple[Path, FeatureTable]) -> None:
    result = reproduce_interest(*known, scored=50)
    rows = {row["videos"]: row for row in result["rows"]}
    assert {name: row["n"] for name, row in rows.items()} == {
        "all": TRAIN - 50 + TEST,
        "the camera is still": 27,
        "the camera moves": 13,
        "objects of the training videos": TRAIN - 50,
        "unseen objects": TEST,
    }
    still, moving = rows["the camera is still"], rows["the camera moves"]
    assert still["correlation"] > 0.8 > 0.5 > abs(moving["correlation"])
    assert all(row["interval"][0] <= row["correlation"] <= row["interval"][1] for row in rows.values())
    assert result["forest"]["videos"] == 50 and next(iter(result["forest"]["importances"])) == MOTION[0]
