"""Likeness of pictures beside that of their captions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from perception_encoder.datasets.captioned import CaptionedMedia
from perception_encoder.errors import DataError
from perception_encoder.layer_analysis.caption_task import CaptionTask, rank_agreement, rank_agreement_without
from perception_encoder.layer_analysis.labelled_tasks import unit
from perception_encoder.layer_analysis.store import StoreConfig
from perception_encoder.layer_analysis.sweep import run_sweep
from perception_encoder.layer_analysis.tasks import make_tasks
from tests.layer_analysis.toys import CLEAR, ToyEncoder

COLOURS = {"red": (230, 20, 20), "green": (20, 200, 30), "blue": (20, 40, 220)}


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """Two dozen pictures of three colours, two captions each that name theirs; one cannot be decoded."""
    rng, said = np.random.default_rng(0), {}
    for number in range(24):
        name = list(COLOURS)[number % 3]
        noisy = np.clip(rng.normal(COLOURS[name], 12, (16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path / f"{number}.png")
        said[f"{number}.png"] = [f"a {name} wall", f"{name} paint on it"]
    (tmp_path / "5.png").write_bytes(b"no picture")
    (tmp_path / "captions.json").write_text(json.dumps(said), encoding="utf-8")
    return tmp_path / "captions.json"


def test_agreement_is_spearman_s_correlation_with_all_others() -> None:
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(9, 4)))
    likeness = rng.integers(0, 3, (9, 9)).astype(float)
    found = rank_agreement(vectors, likeness)
    for row in range(9):
        others = np.delete(np.arange(9), row)
        assert found[row] == pytest.approx(spearmanr(vectors[others] @ vectors[row], likeness[row, others]).statistic)
    by_hand = rank_agreement(unit(np.array([[1.0, 0], [2, 1], [1, 3], [0, 1]])), np.array([[9, 3, 2, 1]] * 4) * 1.0)
    assert by_hand[0] == pytest.approx(1)


def test_agreement_without_a_picture_is_that_of_the_others() -> None:
    rng = np.random.default_rng(0)
    vectors, likeness = unit(rng.normal(size=(9, 4))), rng.integers(0, 3, (9, 9)).astype(float)
    vectors[2] = vectors[7]
    found = rank_agreement_without(vectors, likeness)
    for gone in range(9):
        kept = np.delete(np.arange(9), gone)
        assert found[gone] == pytest.approx(rank_agreement(vectors[kept], likeness[np.ix_(kept, kept)]).mean())


def test_a_layer_that_says_the_same_of_all_knows_nothing() -> None:
    same = unit(np.ones((6, 3), np.float32))
    assert rank_agreement(same, np.random.default_rng(0).random((6, 6))).tolist() == [0] * 6
    assert rank_agreement(unit(np.random.default_rng(0).normal(size=(6, 3))), np.ones((6, 6))).tolist() == [0] * 6


def test_the_layer_that_shows_what_captions_say_is_found(captions: Path, tmp_path: Path) -> None:
    (task,) = make_tasks(["captions"], {}, captions, 100)
    found = run_sweep(ToyEncoder(), [task], StoreConfig(folder=tmp_path / "store"))
    (curve,) = found.curves
    assert curve.figure == "rank correlation with captions" and curve.unit == "" and curve.best == CLEAR
    assert curve.scores[CLEAR].value > 0.7 > 0.3 > curve.scores[0].value and curve.scores[CLEAR].n == 23
    assert [failure.source for failure in found.failures] == ["5.png"]


def test_pictures_are_taken_evenly_apart(captions: Path) -> None:
    (task,) = make_tasks(["captions"], {}, captions, 4)
    assert isinstance(task, CaptionTask) and task.labelled.keys == ("0.png", "8.png", "15.png", "23.png")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("a cat", "a cat"), "few has 2 pictures with captions; it takes 3"),
        (("cat", "dog", "bird"), "few: no two pictures have a word in common"),
        (tuple(" ".join(f"word{row}x{n}" for n in range(7)) for row in range(9)), "few: no two pictures have a word"),
        (("the", "of", "and"), "few: empty vocabulary"),
    ],
)
def test_captions_that_cannot_be_ranked(texts: tuple[str, ...], message: str) -> None:
    keys = tuple(f"{n}.png" for n in range(len(texts)))
    with pytest.raises(DataError, match=message):
        CaptionTask(CaptionedMedia("few", keys, tuple(map(Path, keys)), texts, tuple(range(len(texts)))), 10)


def test_pictures_beside_the_annotations_folder_are_found(captions: Path, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    moved = captions.rename(tmp_path / "annotations" / "captions.json")
    (task,) = make_tasks(["captions"], {}, moved, 2)
    assert isinstance(task, CaptionTask) and len(task.labelled.keys) == 3
    task.images(ToyEncoder())[0].open(0)


def test_the_cause_is_told_where_nothing_can_be_decoded(captions: Path, tmp_path: Path) -> None:
    for picture in tmp_path.glob("*.png"):
        picture.write_bytes(b"no picture")
    (task,) = make_tasks(["captions"], {}, captions, 10)
    with pytest.raises(DataError, match=r"0 pictures can be decoded, it takes 3; 0\.png: "):
        run_sweep(ToyEncoder(), [task], StoreConfig(folder=tmp_path / "store"))


def test_a_place_without_captions(tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"captions: .*none.json holds no captions"):
        make_tasks(["captions"], {}, tmp_path / "none.json", 10)
    with pytest.raises(DataError, match=r"captions: .*is no JSON file and no table"):
        make_tasks(["captions"], {}, tmp_path, 10)
