"""What probes learn from and are measured on, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.errors import DataError
from perception_encoder.evaluation.splits import load_splits
from tests.evaluation.colours import picture, write_colours


def folders(place: Path, split: str, labels: list[str], shade: int = 0) -> Path:
    for index, label in enumerate(labels):
        path = place / split / label / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(label, shade + index))
    return place


def test_settings_are_chosen_on_val_or_on_a_tenth_of_train(tmp_path: Path) -> None:
    folders(tmp_path, "train", ["red", "green"] * 10)
    folders(tmp_path, "val", ["red", "green"], 50)
    (measured_on_val,) = load_splits(tmp_path, "val").values()
    assert [len(part.keys) for part in (measured_on_val.train, measured_on_val.val, measured_on_val.test)] == [18, 2, 2]
    folders(tmp_path, "test", ["red", "green", "red"], 80)
    (measured_on_test,) = load_splits(tmp_path, "test").values()
    assert [len(part.keys) for part in (measured_on_test.train, measured_on_test.val, measured_on_test.test)] == [
        20,
        2,
        3,
    ]


def test_shards_hold_several_tasks(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_colours(tmp_path / f"{split}.tar", "toys", ["red", "green"] * 6, coarse=True)
    assert list(load_splits(tmp_path, "test")) == ["toys", "toys/coarse"]


def test_what_is_learned_is_not_measured(tmp_path: Path) -> None:
    rows = ["path,label", *(f"{i}.png,{label}" for i, label in enumerate(["red", "green"] * 10))]
    (tmp_path / "t.csv").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"t: 20 items are trained on and measured, 0\.png first; give --train"):
        load_splits(tmp_path / "t.csv", "test")


def test_classes_that_cannot_be_learned(tmp_path: Path) -> None:
    folders(tmp_path, "train", ["red", "green"] * 10)
    folders(tmp_path, "test", ["red", "blue"])
    with pytest.raises(DataError, match="nothing to learn the class 'blue' from"):
        load_splits(tmp_path, "test")


def test_one_class_is_no_task(tmp_path: Path) -> None:
    folders(tmp_path, "train", ["red"] * 10)
    folders(tmp_path, "test", ["red"])
    with pytest.raises(DataError, match="has only the class 'red'"):
        load_splits(tmp_path, "test")


def test_train_may_be_elsewhere(tmp_path: Path) -> None:
    folders(tmp_path / "a", "train", ["red", "green"] * 10)
    folders(tmp_path / "b", "test", ["red", "green"])
    (splits,) = load_splits(tmp_path / "b", "test", tmp_path / "a").values()
    assert len(splits.train.keys) + len(splits.val.keys) == 20
