"""The built-in model is never trained on ten classes of Caltech-101, chosen by hash, nor on whole sources."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.errors import DataError
from perception_encoder.pretraining.sources import ImageTextSet
from perception_encoder.stages import configure, list_recipes
from synthetic.builtin import recipes
from synthetic.builtin.held_out import (
    UNSEEN_LABELS,
    find_unseen_labels,
    load_suite,
)
from synthetic.builtin.rules import read_builtin


def load(*paths: Path, split: str = "train") -> ImageTextSet:
    """As a run of the built-in recipes loads them."""
    return read_builtin(paths, split)


SEEN = ["accordion", "anchor", "ant", "barrel", "bass", "beaver", "leopard", "motorbike", "watch", "wrench"]


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


def test_what_is_never_trained_on_is_left_out(run_module, photos: Path, tmp_path: Path) -> None:
    """Ants are among the classes that the built-in model is never trained on."""
    out = tmp_path / "run"
    arguments = ("train", "builtin", "--data", photos, "--out", out, "--debug", "--set", "batch_size=8")
    run = run_module(*arguments)
    assert run.status == 0 and str(out / "model.safetensors") in run.stdout.replace("\n", ""), run.stderr
    assert json.loads((out / "config.json").read_text())["samples"] == {"caltech101": 10, "flowers": 20}
    again = run_module(*arguments)  # all steps are done: nothing is trained again
    assert again.status == 0 and "contrastive" not in again.stdout
