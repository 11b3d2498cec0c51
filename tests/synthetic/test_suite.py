"""The suite measures every task of a directory, encodes each image once, and labels what it measured."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

from perception_encoder.errors import ConfigError, DataError
from synthetic.suite import Suite
from tests.evaluation.colours import ColourEncoder, write_colours

LABELS = ["red cup", "red pot", "green pea", "blue jay", "red cup", "green pea"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two sources in train, val and test; `shop` has coarse labels, and one of its test images is broken."""
    directory = tmp_path / "photos"
    for split, broken in (("train", ()), ("val", ()), ("test", (3,))):
        write_colours(directory / split / "shop.tar", "shop", LABELS, coarse=True, broken=broken)
        write_colours(directory / split / "toys.tar", "toys", ["red", "blue"])
    return directory


def encoders() -> dict[str, ColourEncoder]:
    return {"squash": ColourEncoder(), "crop": ColourEncoder()}


def test_every_task_is_measured_and_labelled(photos: Path) -> None:
    suite = Suite(encoders())
    suite.classify(photos)
    result = suite.result("test", {"weights": "none"})
    assert list(dict.fromkeys((*score.key, score.classes) for score in result.scores)) == [
        (task, method, transform, prompts, classes)
        for task, classes in (("shop", 4), ("shop/coarse", 3), ("toys", 2))
        for method, transform, prompts in (
            ("zero-shot", "squash", "photo"),
            ("zero-shot", "crop", "photo"),
            ("zero-shot", "squash", "imagenet"),
            ("zero-shot", "crop", "imagenet"),
            ("linear probe", "squash", ""),
        )
    ]
    groups = groupby(result.scores, lambda score: score.key)
    values = {key[:2]: [round(score.value, 4) for score in scores] for key, scores in groups}
    # Its colour cannot tell a red pot from a red cup, and the only blue jay is broken.
    assert values["shop", "zero-shot"] == [round(2 / 3, 4), 0.8]
    assert values["shop/coarse", "zero-shot"] == values["toys", "zero-shot"] == [1.0, 1.0]
    assert (result.model, result.split, result.about) == ("colours", "test", {"weights": "none"})


def test_a_broken_image_is_in_no_result_and_reported_once(photos: Path) -> None:
    suite = Suite(encoders())
    suite.classify(photos)
    by_task = {score.task: score.n for score in suite.scores}
    assert by_task == {"shop": 5, "shop/coarse": 5, "toys": 2}
    (failure,) = suite.result("test", {}).failures
    assert failure.startswith("shop-3: ")
    assert suite.first["squash"].count == (6 + 2) * 3


def test_each_image_is_encoded_once_and_each_prompt_too(photos: Path) -> None:
    both = encoders()
    Suite(both, ["name"]).classify(photos)
    assert both["squash"].image_count == (6 + 2) * 3 - 1
    assert both["crop"].image_count == (6 + 2) - 1
    assert (both["squash"].texts, both["crop"].texts) == (4 + 3 + 2, 0)


def test_on_val_no_probe_is_measured(photos: Path) -> None:
    suite = Suite(encoders())
    suite.classify(photos, "val")
    assert {score.method for score in suite.scores} == {"zero-shot"}


def test_the_same_model_has_the_same_result(photos: Path) -> None:
    first, second = Suite(encoders()), Suite(encoders())
    for suite in (first, second):
        suite.classify(photos)
    assert first.result("test", {}) == second.result("test", {})


def test_the_classes_are_those_of_train_and_test_together(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_colours(tmp_path / f"{split}.tar", "toys", ["red", "green", "blue"])
    write_colours(tmp_path / "test.tar", "toys", ["red", "blue"])
    suite = Suite(encoders())
    suite.classify(tmp_path)
    assert {score.classes for score in suite.scores} == {3}


def test_a_task_of_one_class_is_a_data_error(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_colours(tmp_path / f"{split}.tar", "toys", ["red", "red"])
    with pytest.raises(DataError, match="toys has only the class 'red'"):
        Suite(encoders()).classify(tmp_path)


def test_unknown_splits_and_prompts_show_the_known_ones(photos: Path) -> None:
    with pytest.raises(ConfigError, match="test or val, not 'train'"):
        Suite(encoders()).classify(photos, "train")
    with pytest.raises(ConfigError, match="'imagnet'; choose from imagenet, kinetics, actions, photo, name"):
        Suite(encoders(), ["photo", "imagnet"])


def test_drawings_are_found_by_their_names(tmp_path: Path) -> None:
    write_colours(tmp_path / "unseen" / "openmoji.tar", "openmoji", ["red heart", "green leaf", "blue book"])
    write_colours(tmp_path / "train" / "noto.tar", "noto", ["red heart"])
    both = encoders()
    suite = Suite(both)
    suite.retrieve_drawings(tmp_path)
    assert {(score.task, score.prompts, score.classes) for score in suite.scores} == {("openmoji", "name", 3)}
    assert {score.name: score.value for score in suite.scores} == {
        "image by name R@1": 1.0,
        "name of image R@1": 1.0,
        "image by name, dual softmax R@1": 1.0,
        "name of image, dual softmax R@1": 1.0,
    }
    assert both["squash"].texts == 3


def test_drawings_of_one_name_are_a_data_error(tmp_path: Path) -> None:
    write_colours(tmp_path / "unseen" / "openmoji.tar", "openmoji", ["red heart", "red heart"])
    with pytest.raises(DataError, match="openmoji: two images have the same name"):
        Suite(encoders()).retrieve_drawings(tmp_path)
