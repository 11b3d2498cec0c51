"""What probes learn from and are measured on, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from perception_encoder.datasets.labelled import LabelledImages, held_out_rows
from perception_encoder.errors import DataError
from perception_encoder.evaluation.classification.splits import hold_out, load_splits
from tests.evaluation.colours import image_bytes, write_colours


def directories(place: Path, split: str, labels: list[str], shade: int = 0) -> Path:
    for index, label in enumerate(labels):
        path = place / split / label / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(label, shade + index))
    return place


def test_settings_are_chosen_on_val_or_on_a_tenth_of_train(tmp_path: Path) -> None:
    directories(tmp_path, "train", ["red", "green"] * 10)
    directories(tmp_path, "val", ["red", "green"], 50)
    (measured_on_val,) = load_splits(tmp_path, "val").values()
    assert [len(part.keys) for part in (measured_on_val.train, measured_on_val.val, measured_on_val.test)] == [18, 2, 2]
    directories(tmp_path, "test", ["red", "green", "red"], 80)
    (measured_on_test,) = load_splits(tmp_path, "test").values()
    assert [len(part.keys) for part in (measured_on_test.train, measured_on_test.val, measured_on_test.test)] == [
        20,
        2,
        3,
    ]


def test_shards_hold_several_tasks(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for source in ("toys", "cups"):
            write_colours(tmp_path / split / f"{source}.tar", source, ["red", "green"] * 6)
    assert list(load_splits(tmp_path, "test")) == ["cups", "toys"]


def test_what_is_learned_is_not_measured(tmp_path: Path) -> None:
    rows = ["path,label", *(f"{i}.png,{label}" for i, label in enumerate(["red", "green"] * 10))]
    (tmp_path / "t.csv").write_text("\n".join(rows), encoding="utf-8")
    (splits,) = load_splits(tmp_path / "t.csv", "test").values()
    assert len(splits.test.keys) == 4 and not {*splits.test.keys} & {*splits.train.keys, *splits.val.keys}
    (tmp_path / "u.csv").write_text("\n".join(rows[:-1]), encoding="utf-8")
    with pytest.raises(
        DataError, match=r"t: 19 items are in both the training and the test split, 0\.png first; give --train"
    ):
        load_splits(tmp_path / "t.csv", "test", tmp_path / "u.csv")


def test_classes_that_cannot_be_learned(tmp_path: Path) -> None:
    directories(tmp_path, "train", ["red", "green"] * 10)
    directories(tmp_path, "test", ["red", "blue"])
    with pytest.raises(DataError, match="the class 'blue' is not in the split train"):
        load_splits(tmp_path, "test")


def test_one_class_is_no_task(tmp_path: Path) -> None:
    directories(tmp_path, "train", ["red"] * 10)
    directories(tmp_path, "test", ["red"])
    with pytest.raises(DataError, match="has only the class 'red'"):
        load_splits(tmp_path, "test")


def test_train_may_be_elsewhere(tmp_path: Path) -> None:
    directories(tmp_path / "a", "train", ["red", "green"] * 10)
    directories(tmp_path / "b", "test", ["red", "green"])
    (splits,) = load_splits(tmp_path / "b", "test", tmp_path / "a").values()
    assert len(splits.train.keys) + len(splits.val.keys) == 20


def named(labels: dict[str, str]) -> LabelledImages:
    return LabelledImages("toys", tuple(labels), tuple(key.encode() for key in labels), tuple(labels.values()))


def by_hash(count: int) -> list[str]:
    """Names, those that are held out first."""
    return sorted((f"a{n}" for n in range(count)), key=lambda key: hashlib.sha256(key.encode()).digest())


def test_the_last_image_of_a_class_is_not_held_out() -> None:
    first, second, third, *others = by_hash(30)
    labels = {first: "blue", second: "white", third: "white"} | {
        key: ("red", "green")[place % 2] for place, key in enumerate(others)
    }
    splits = hold_out(named(labels), named({"t": "blue"}))
    assert splits.val.keys == (second,)  # of the tenth, what its class can spare
    assert set(splits.train.keys) == {first, third, *others}
    small = {key: "blue" if key == by_hash(10)[0] else "red" for key in by_hash(10)}
    assert hold_out(named(small), named({"t": "red"})).val.keys == (by_hash(10)[1],)  # the next one
    with pytest.raises(DataError, match="12 training items; at least 10 are needed, and two of a class"):
        hold_out(named({key: key for key in by_hash(12)}), named({"t": "a0"}))


def test_larger_classes_give_the_tenth_that_they_always_gave() -> None:
    labels = {key: ("red", "green")[place % 2] for place, key in enumerate(by_hash(40))}
    splits = hold_out(named(labels), named({"t": "red"}))
    assert set(splits.val.keys) == set(by_hash(40)[:4])


def test_nothing_is_held_out_where_nothing_is_chosen(tmp_path: Path) -> None:
    directories(tmp_path, "train", ["red", "green", "green"])
    directories(tmp_path, "test", ["red", "green"], 80)
    (splits,) = load_splits(tmp_path, "test", choosing=False).values()
    assert (len(splits.train.keys), splits.val.keys, splits.classes) == (3, (), ("green", "red"))
    with pytest.raises(DataError, match="3 training items; at least 10 are needed"):
        load_splits(tmp_path, "test")


def plain(place: Path, counts: dict[str, int]) -> Path:
    """Write a directory of class directories, without splits."""
    for label, count in counts.items():
        directories(place.parent, place.name, [label] * count, shade=count)
    return place


def test_a_fifth_of_a_directory_without_splits_is_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos = plain(tmp_path / "photos", {"red": 20, "green": 10, "blue": 1})
    (splits,) = load_splits(photos, "test", choosing=False).values()
    assert splits.test.name == "photos, held-out fifth" and splits.classes == ("blue", "green", "red")
    assert sorted(splits.test.labels) == ["green"] * 2 + ["red"] * 4
    assert {*splits.test.keys} | {*splits.train.keys} == {f"red/{n}.png" for n in range(20)} | {
        *(f"green/{n}.png" for n in range(10)),
        "blue/0.png",
    }
    assert not {*splits.test.keys} & {*splits.train.keys}
    assert "photos has no splits: 6 of its 31 items, a fifth of each class, are held out" in caplog.text
    assert load_splits(photos, "val", choosing=False)["photos"].test == splits.test
    (chosen,) = load_splits(photos, "test").values()
    assert chosen.test == splits.test and {*chosen.val.keys} < {*splits.train.keys}


def test_training_leaves_out_what_evaluation_holds_out() -> None:
    keys, labels = [f"{n}" for n in range(50)], ["a", "b"] * 25
    rows = held_out_rows(keys, labels)
    assert len(rows) == 10 and {*held_out_rows(keys, labels, 0.1)} < {*rows}
    shuffled = held_out_rows(keys[::-1], labels[::-1])
    assert {keys[::-1][row] for row in shuffled} == {keys[row] for row in rows}
    assert held_out_rows(["a", "b"], ["x", "y"]) == []
