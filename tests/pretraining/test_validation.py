"""Validation of a run on pairs that it is not trained on: scores, the weights at the best one, and exact resuming."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from perception_encoder.data.packing import ShardSize, pack
from perception_encoder.data.pairs import alone
from perception_encoder.data.streams import Shards
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.inference.load import load
from perception_encoder.models.checkpoints.weights import create_model, load_model
from perception_encoder.preprocess.prompts import PHOTO_TEMPLATES
from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.pretraining.run import build_model, pretrain
from perception_encoder.pretraining.sources import Sources, open_sources
from perception_encoder.pretraining.task import PairValidation, hits
from perception_encoder.pretraining.towers import TrainingTowers
from perception_encoder.progress import untracked
from perception_encoder.training.checkpoint import load_weights
from perception_encoder.training.config import ValidationConfig
from synthetic.builtin.rules import read_builtin
from tests.pretraining.test_parallel import best
from tests.pretraining.toys import debug
from tests.training.toys import validations as rows


def validated(**changes: object) -> PretrainingConfig:
    """The debug run, validated at each of its four steps on a quarter of the data."""
    return dataclasses.replace(debug(), validation=ValidationConfig(every=1, share=0.25, **changes))


def sources_of(config: PretrainingConfig, *data: Path | Shards) -> Sources:
    return open_sources(config, data, build_model(config), alone, untracked, read_builtin)


def test_a_hit_is_a_true_column_above_all_others() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]])
    truth = torch.tensor([[1, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0]], dtype=torch.bool)
    assert hits(scores, truth) == 0.5  # the second ties, the last has no true column


def test_a_held_out_part_of_each_source_is_scored_and_not_trained_on(photos: Path) -> None:
    config = validated()
    plain, sources = sources_of(debug(), photos), sources_of(config, photos)
    assert not plain.validation and sum(plain.samples.values()) == 30
    assert sources.samples == {"caltech101": 8, "flowers": 15} and len(sources.validation) == 2 + 5
    trained = {name for name in sources.names if not name.startswith("validation")}
    held_out = {f"{source[index].source}/{source[index].key}" for source, index in sources.validation}
    assert trained | held_out == set(plain.names) and not trained & held_out
    assert len(sources_of(validated(size=3), photos).validation) <= 3


def test_a_split_val_is_scored_without_what_is_never_trained_on(make_shard, photos: Path) -> None:
    make_shard("photos/val.tar", [("flowers", "rose"), ("flowers", "tulip"), ("caltech101", "x3"), ("openmoji", "cat")])
    plain, sources = sources_of(debug(), photos), sources_of(validated(), photos)
    assert sources.samples == plain.samples
    assert [source[index].label for source, index in sources.validation] == ["rose", "tulip"]
    assert sources_of(dataclasses.replace(debug(), validation=ValidationConfig(share=0)), photos).validation


def test_a_run_writes_its_best_weights_beside_its_last_ones(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = dataclasses.replace(validated(), half=False, checkpoint_every=4, keep=1)
    pretrain(config, [photos], out, read=read_builtin)
    scores = {row["step"]: row["validation/retrieval"] for row in rows(out)}
    assert list(scores) == [1, 2, 3, 4] and all(0 <= score <= 1 for score in scores.values())
    assert best(out) == {"step": max(scores, key=scores.__getitem__), "retrieval": max(scores.values())}
    model = load_model(out / "best.safetensors")
    stage = config.stages[0 if best(out)["step"] <= 2 else 1]
    assert model.visual.config.image_size == stage.image_size
    towers = TrainingTowers(create_model("builtin"), masked=True)
    sources = sources_of(config, photos)
    sources.vocabulary.narrow(towers.clip)
    towers.clip.visual.set_image_size(stage.image_size)
    load_weights(out, best(out)["step"], towers)
    assert torch.equal(towers.clip.visual.conv1.weight, model.visual.conv1.weight)
    assert PairValidation(config, towers, sources).validate("retrieval")["retrieval"] == max(scores.values())


def test_scores_are_those_of_the_weights_that_are_written(photos: Path, tmp_path: Path, monkeypatch) -> None:
    """With words that no training caption has, and with a cache of captions: by an encoder, pair by pair."""
    monkeypatch.setenv("PE_DTYPE", "float32")
    changes = {"initial": "builtin", "locked": "text", "masking": None, "half": False, "batch_size": 32}
    stages = (dataclasses.replace(debug().stages[0], image_size=128, steps=4),)
    config = dataclasses.replace(validated(metric="zero_shot"), **changes, stages=stages)
    samples = sources_of(config, photos).validation
    path = pretrain(config, [photos], tmp_path / "run", read=read_builtin)
    encoder = load(str(path))
    labels = sorted({source[index].label for source, index in samples})
    classes = torch.stack(
        [torch.from_numpy(encoder.encode_texts([t.format(label) for t in PHOTO_TEMPLATES])).mean(0) for label in labels]
    )
    right = 0
    for source, index in samples:
        pixels = F.interpolate(source[index].image[None], (128, 128), mode="bilinear", antialias=True)
        with torch.no_grad():
            image = encoder.model.encode_image(pixels / 127.5 - 1)
        right += labels[int((image @ F.normalize(classes, dim=-1).T).argmax())] == source[index].label
    assert rows(tmp_path / "run")[-1]["validation/zero_shot"] == pytest.approx(right / len(samples))


def test_shards_are_validated_on_a_part_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    (tmp_path / "images").mkdir()
    for number in range(24):
        Image.new("RGB", (40, 40), (10 * number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
        (tmp_path / "images" / f"{number}.txt").write_text(f"number {number}")
    pack(tmp_path / "images", tmp_path / "shards", ShardSize(samples=12))
    data = Shards(str(tmp_path / "shards"))
    assert sources_of(validated(), data).samples == {str(tmp_path / "shards"): 18}
    pretrain(validated(), [data], tmp_path / "run")
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4] and best(tmp_path / "run")["step"] >= 1


def test_what_cannot_be_validated_is_said(make_shard, tmp_path: Path) -> None:
    message = r"validation\.metric is 'loss'; the task has retrieval, image_to_text, text_to_image, zero_shot"
    with pytest.raises(ConfigError, match=message):  # before the data are read, which do not exist
        pretrain(validated(metric="loss"), [tmp_path / "a"], tmp_path / "run")
    make_shard("a/train.tar", [("flowers", "rose")] * 8)
    with pytest.raises(DataError, match="needs images of two labels"):
        pretrain(validated(metric="zero_shot"), [tmp_path / "a"], tmp_path / "run")


def test_of_a_directory_training_leaves_out_what_evaluation_holds_out(tmp_path: Path) -> None:
    from perception_encoder.evaluation.classification.splits import load_splits
    from tests.evaluation.classification.test_probes import directories

    directories(tmp_path, "photos", ["red", "green"] * 10)
    config = dataclasses.replace(debug(), weights={}, validation=ValidationConfig(share=0.2))
    sources = sources_of(config, tmp_path / "photos")
    held_out = {source[index].key for source, index in sources.validation}
    assert held_out == {*load_splits(tmp_path / "photos", "test")["photos"].test.keys} and len(held_out) == 4
    assert not any(name.removeprefix("photos/") in held_out for name in sources.names)
