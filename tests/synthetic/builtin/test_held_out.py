"""The built-in model is never trained on ten classes of Caltech-101, chosen by hash, nor on whole sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from perception_encoder.errors import DataError
from perception_encoder.formats.shards import ShardSample, read_shard
from perception_encoder.pretraining.sources import ImageTextSet
from perception_encoder.stages import configure, list_recipes
from perception_encoder.training.config import TrainingConfig
from synthetic.builtin import recipes
from synthetic.builtin.held_out import (
    UNSEEN_LABELS,
    find_unseen_labels,
    load_suite,
    smallest_hashes,
)
from synthetic.builtin.rules import read_builtin
from synthetic.questions.conversations import SceneRecords
from synthetic.shards import write_shard


def load(*paths: Path, split: str = "train") -> ImageTextSet:
    """As a run of the built-in recipes loads them."""
    return read_builtin(paths, split)


SEEN = ["accordion", "anchor", "ant", "barrel", "bass", "beaver", "leopard", "motorbike", "watch", "wrench"]


def test_the_unseen_classes_are_those_of_the_smallest_hash() -> None:
    assert smallest_hashes([*SEEN, *UNSEEN_LABELS, "anchor"]) == UNSEEN_LABELS
    assert smallest_hashes(["a", "b", "c"], 1) == {"c"}  # ca97…, 3e23…, 2e7d…


def test_unseen_labels_are_those_of_all_splits_together(make_shard, tmp_path: Path) -> None:
    train = make_shard("x/train.tar", [("caltech101", label) for label in SEEN] + [("flowers", "rose")])
    make_shard("x/test.tar", [("caltech101", label) for label in sorted(UNSEEN_LABELS)])
    expected = {("caltech101", label) for label in UNSEEN_LABELS}
    assert find_unseen_labels(tmp_path / "x") == expected
    assert find_unseen_labels(train) == expected


def test_the_tasks_of_the_real_photographs(real_data: Path) -> None:
    tasks = load_suite(real_data / "photos")
    sizes = {name: (len(task.labels), len(task.classes)) for name, task in tasks.items()}
    assert sizes == {
        "caltech101": (1649, 71),
        "caltech101/unseen": (376, 10),
        "clothing": (1556, 17),
        "flowers": (885, 4),
        "grocery": (2485, 81),
        "grocery/coarse": (2485, 43),
    }
    assert set(tasks["caltech101/unseen"].classes) == UNSEEN_LABELS


def test_unseen_and_coarse_labels_are_tasks_of_their_own(make_shard, tmp_path: Path) -> None:
    make_shard("x/train.tar", [("caltech101", label) for label in SEEN])
    unseen = min(UNSEEN_LABELS)
    rows = [("caltech101", unseen), ("caltech101", "anchor"), ("grocery", "royal gala")]
    make_shard("x/test.tar", [*rows, *(("caltech101", label) for label in sorted(UNSEEN_LABELS)[1:])], coarse="thing")
    tasks = load_suite(tmp_path / "x")
    assert list(tasks) == ["caltech101", "caltech101/coarse", "caltech101/unseen", "grocery", "grocery/coarse"]
    assert tasks["caltech101"].labels == ("anchor",) and tasks["caltech101/unseen"].labels[0] == unseen
    assert tasks["grocery/coarse"].labels == ("thing",) and tasks["grocery/coarse"].name == "grocery/coarse"


NAMES = [name for stage in recipes.STAGES for name in stage.recipes]


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_a_config_with_a_debug_form(name: str) -> None:
    stage, config = configure(name, stages=recipes.STAGES)
    small = stage.debug(config)
    assert type(small) is type(config) and config.steps > small.steps == 4
    assert stage.recipes[name][0] and name not in list_recipes()


def test_training_never_sees_the_unseen_classes(make_shard, tmp_path: Path) -> None:
    labels = ["crocodile", "hedgehog", "mandolin", "cougar", "flamingo", "menorah", "airplane", "wild cat"]
    labels += ["windsor chair", "cannon", "ant", "watch"]
    for split in ("train", "val"):
        rows = [("caltech101", label) for label in labels]
        make_shard(f"a/{split}.tar", [*rows, ("noto", "cougar"), ("noto", "cat")])
    train = load(tmp_path / "a")
    assert [(s.source, s.label) for s in train] == [("caltech101", "ant"), ("caltech101", "watch"), ("noto", "cat")]
    assert [s.label for s in load(tmp_path / "a", split="val")] == ["ant", "watch", "cat"]


def test_held_out_data_is_refused_for_training(make_shard, tmp_path: Path) -> None:
    make_shard("a/train/styles.tar", [("noto", "cat"), ("openmoji", "cat")])
    with pytest.raises(DataError, match="openmoji must not be trained on"):
        load(tmp_path / "a")
    make_shard("b/val.tar", [("noto", "cat"), ("openmoji", "cat")])
    assert [sample.source for sample in load(tmp_path / "b", split="val")] == ["noto"]


def test_held_out_sources_and_unseen_classes_are_kept_out_of_class_directories(make_shard, tmp_path: Path) -> None:
    make_shard("photos/train.tar", [("caltech101", f"x{n}") for n in range(9)] + [("caltech101", "crocodile")])
    for name in ("mine/Crocodile", "mine/plate", "openmoji/cat"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (60, 40), (200, 0, 0)).save(tmp_path / name / "a.png")
    loaded = load(tmp_path / "photos", tmp_path / "mine")
    assert [sample.label for sample in loaded] == ["plate"]  # all ten labels of the shard are unseen, too
    with pytest.raises(DataError, match="openmoji must not be trained on"):
        load(tmp_path / "openmoji")


@pytest.mark.parametrize("field", [{"tags": 3}, {"tags": "red"}, {"tags": ["red", 3]}, {"coarse": ["a"]}, {"kids": {}}])
def test_a_sample_with_a_field_of_a_wrong_type_is_left_out(
    make_shard, tmp_path: Path, caplog: pytest.LogCaptureFixture, field: dict
) -> None:
    good = list(read_shard(make_shard("a/train.tar", [("flowers", "rose"), ("flowers", "lily")])))
    bad = ShardSample("bad", "png", good[0].image, good[0].metadata | field)
    null = ShardSample("null", "png", good[0].image, good[0].metadata | dict.fromkeys(field))
    write_shard(tmp_path / "a" / "train.tar", [*good, bad, null])
    loaded = load(tmp_path / "a")
    assert f"left out bad: {next(iter(field))!r}" in caplog.text
    assert all(sample.pair.captions for sample in loaded) and loaded[2].pair.captions == loaded[0].pair.captions


def test_what_is_never_trained_on_is_left_out(run_module, photos: Path, tmp_path: Path) -> None:
    """Ants are among the classes that the built-in model is never trained on."""
    out = tmp_path / "run"
    arguments = ("train", "builtin", "--data", photos, "--out", out, "--debug", "--set", "batch_size=8")
    run = run_module(*arguments)
    assert run.status == 0 and str(out / "model.safetensors") in run.stdout.replace("\n", ""), run.stderr
    assert json.loads((out / "config.json").read_text())["samples"] == {"caltech101": 10, "flowers": 20}
    again = run_module(*arguments)  # all steps are done: nothing is trained again
    assert again.status == 0 and "contrastive" not in again.stdout


def test_tars_of_scenes_are_conversations(run_module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []

    def align(config: TrainingConfig, data: list[Path], out: Path, *others: Any) -> Path:
        called.append((data, others[-1]))
        return out / "language.safetensors"

    monkeypatch.setattr(recipes, "align_language", align)
    run = run_module("train", "language_builtin", "--data", tmp_path, "--out", tmp_path / "run", "--debug")
    assert run.status == 0, run.stderr
    ((data, reader),) = called
    assert data == [tmp_path] and reader.func is SceneRecords and reader.keywords == {"apart": True}


def test_recipes_are_listed_and_an_unknown_one_is_named(run_module) -> None:
    listed = run_module("train", "--list")
    assert listed.status == 0 and all(name in listed.stdout for name in NAMES)
    wrong = run_module("train", "core_g14", "--data", "x")
    assert wrong.status == 2 and "no recipe is called 'core_g14'" in wrong.stderr
    settings = run_module("train", "builtin_second", "--settings")
    assert settings.status == 0 and "locked" in settings.stdout
    without = run_module("train", "builtin")
    assert without.status == 2 and "give --data or --shards" in without.stderr
