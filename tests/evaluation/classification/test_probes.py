"""Linear probe and k-NN against scikit-learn; what probes learn from and are measured on, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.datasets.labelled import LabelledImages, held_out_rows
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.evaluation.classification.probes import STRENGTHS, fit_probe, vote
from perception_encoder.evaluation.classification.splits import hold_out, load_splits
from perception_encoder.evaluation.embeddings import Features
from tests.data.tars import write_file
from tests.evaluation.colours import image_bytes, unit, write_colours

CLASSES = ("a", "b", "c")


def cloud(counts: dict[str, int], spread: float, seed: int, dimensions: int = 12) -> Features:
    """Unit vectors around a direction for each class."""
    generator = np.random.default_rng(seed)
    labels = tuple(name for name, count in counts.items() for _ in range(count))
    centres = np.eye(dimensions)[[CLASSES.index(label) for label in labels]]
    vectors = centres + spread * generator.standard_normal((len(labels), dimensions))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Features(vectors.astype(np.float32), tuple(map(str, range(len(labels)))), labels)


def test_a_strength_that_does_not_converge_is_compared_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are errors in tests."""
    monkeypatch.setattr("perception_encoder.evaluation.classification.probes.ITERATIONS", 1)
    train, val = (cloud(dict.fromkeys(CLASSES, 20), 0.5, seed) for seed in range(2))
    assert fit_probe(train, val, CLASSES, strengths=[1e3, 1e4]).strength in (1e3, 1e4)


@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:2]])
def test_it_agrees_with_scikit_learn(classes: tuple[str, ...]) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train = cloud(dict(zip(classes, (50, 20, 9)[: len(classes)], strict=True)), 0.5, 0)
    test = cloud(dict.fromkeys(classes, 60), 0.5, 1)
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced"))
    oracle.fit(train.vectors, train.targets(classes))
    probe = fit_probe(train, test, classes, strengths=[0.1])
    assert np.mean(probe.classify(test.vectors) == oracle.predict(test.vectors)) > 0.98
    exponentials = np.exp(probe.scores(test.vectors))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    assert np.allclose(probabilities, oracle.predict_proba(test.vectors), atol=0.01)


def test_the_strength_is_the_best_on_val() -> None:
    train = cloud(dict.fromkeys(CLASSES, 8), 0.8, 0)
    val = cloud(dict.fromkeys(CLASSES, 300), 0.8, 1)
    scores = {}
    for strength in STRENGTHS:
        predicted = fit_probe(train, val, CLASSES, [strength]).classify(val.vectors)
        scores[strength] = (predicted == val.targets(CLASSES)).mean()  # classes are equally frequent
    assert len(set(scores.values())) > 1 and list(scores) == pytest.approx(np.logspace(-3, 2, 6))
    assert fit_probe(train, val, CLASSES).strength == max(scores, key=lambda strength: scores[strength])


def test_a_class_without_training_images_is_never_named() -> None:
    train, val = cloud({"a": 9, "c": 9}, 0.1, 0), cloud({"a": 9, "b": 9, "c": 9}, 0.1, 1)
    assert 1 not in fit_probe(train, val, CLASSES).classify(val.vectors)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_the_vote_is_scikit_learns(k: int) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(k)
    targets = rng.integers(0, 4, 200)
    centres = rng.standard_normal((4, 8))
    train, queries = (
        unit(centres[which] + 2 * rng.standard_normal((len(which), 8))).astype(np.float32)
        for which in (targets, rng.integers(0, 4, 100))
    )
    oracle = neighbors.KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    expected = oracle.fit(train, targets).predict(queries)
    np.testing.assert_array_equal(vote(train, targets, queries, k), expected)


@pytest.mark.parametrize("k", [0, 4])
def test_k_is_within_the_training_items(k: int) -> None:
    with pytest.raises(ConfigError, match=f"k is {k}; it must be at least 1 and at most 3"):
        vote(np.eye(3, dtype=np.float32), np.arange(3), np.eye(3, dtype=np.float32), k)


def directories(place: Path, split: str, labels: list[str], shade: int = 0) -> Path:
    for index, label in enumerate(labels):
        write_file(place / split / label / f"{index}.png", image_bytes(label, shade + index))
    return place


def test_settings_are_chosen_on_val_or_on_a_tenth_of_train(tmp_path: Path) -> None:
    directories(tmp_path, "train", ["red", "green"] * 10)
    directories(tmp_path, "val", ["red", "green"], 50)
    (measured_on_val,) = load_splits(tmp_path, "val").values()
    assert [len(part.keys) for part in (measured_on_val.train, measured_on_val.val, measured_on_val.test)] == [18, 2, 2]
    directories(tmp_path, "test", ["red", "green", "red"], 80)
    (measured_on_test,) = load_splits(tmp_path, "test").values()
    parts = (measured_on_test.train, measured_on_test.val, measured_on_test.test)
    assert [len(part.keys) for part in parts] == [20, 2, 3]


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
    with pytest.raises(DataError, match="t: 19 items are in both"):
        load_splits(tmp_path / "t.csv", "test", tmp_path / "u.csv")


def test_classes_that_cannot_be_learned(tmp_path: Path) -> None:
    directories(tmp_path, "train", ["red", "green"] * 10)
    directories(tmp_path, "test", ["red", "blue"])
    with pytest.raises(DataError, match="the class 'blue' is not in"):
        load_splits(tmp_path, "test")
    directories(tmp_path / "one", "train", ["red"] * 10)
    directories(tmp_path / "one", "test", ["red"])
    with pytest.raises(DataError, match="has only the class 'red'"):
        load_splits(tmp_path / "one", "test")


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
    large = {key: ("red", "green")[place % 2] for place, key in enumerate(by_hash(40))}
    assert set(hold_out(named(large), named({"t": "red"})).val.keys) == set(by_hash(40)[:4])
    assert set(splits.train.keys) == {first, third, *others}
    small = {key: "blue" if key == by_hash(10)[0] else "red" for key in by_hash(10)}
    assert hold_out(named(small), named({"t": "red"})).val.keys == (by_hash(10)[1],)  # the next one
    with pytest.raises(DataError, match="12 training items; at least 10"):
        hold_out(named({key: key for key in by_hash(12)}), named({"t": "a0"}))


def test_nothing_is_held_out_where_nothing_is_chosen(tmp_path: Path) -> None:
    directories(tmp_path, "train", ["red", "green", "green"])
    directories(tmp_path, "test", ["red", "green"], 80)
    (splits,) = load_splits(tmp_path, "test", choosing=False).values()
    assert (len(splits.train.keys), splits.val.keys, splits.classes) == (3, (), ("green", "red"))
    with pytest.raises(DataError, match="3 training items; at least 10"):
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
