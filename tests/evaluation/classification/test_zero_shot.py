"""The published templates, a class as the mean of its sentences, the nearest class, and labels as people write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.errors import ConfigError, ModelError
from perception_encoder.evaluation.classification.zero_shot import (
    ACTION_TEMPLATES,
    IMAGENET_TEMPLATES,
    KINETICS_TEMPLATES,
    PROMPTS,
    ZeroShotEvaluator,
    accuracies,
    ensemble,
    highest,
    prompted_name,
    read_labels,
)
from perception_encoder.evaluation.embeddings import Embeddings, Features
from perception_encoder.evaluation.statistics.scores import estimate, measure
from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.prompts import PHOTO_TEMPLATES
from synthetic.builtin.rules import DRAWING_TEMPLATES
from tests.evaluation.colours import ColourTowers, colour_encoder, image_bytes, unit


@pytest.mark.parametrize("top", [1, 2, 5, 50, 299, 300])
def test_the_highest_are_those_of_a_whole_sort(top: int) -> None:
    scores = np.random.default_rng(top).permuted(np.tile(np.arange(300.0), (20, 1)), axis=1)
    assert highest(scores, top).tolist() == np.argsort(-scores, axis=1)[:, :top].tolist()


def test_accuracies_count_by_class_and_by_item() -> None:
    features = Features(np.zeros((4, 2), dtype=np.float32), tuple("wxyz"), ("a", "a", "a", "c"))
    by_class, top1 = map(measure, accuracies(np.array([0, 0, 1, 1]), features.keys, features.labels, ("a", "b", "c")))
    assert (by_class.value, by_class.n) == (pytest.approx((2 / 3 + 0) / 2), 4)
    assert (top1.name, top1.value) == ("top-1", 0.5)


@pytest.mark.parametrize("sizes", [[1] * 30, [2] * 20, [1] * 5 + [12] * 5], ids=["one", "two", "one or twelve"])
def test_intervals_of_few_items_a_class_hold_the_truth(sizes: list[int]) -> None:
    """Of 95 % intervals at least 90 % hold it; drawn within classes of one item, none would."""
    rng = np.random.default_rng(0)
    classes = tuple(f"{number:02}" for number in range(len(sizes)))
    labels = tuple(label for label, size in zip(classes, sizes, strict=True) for _ in range(size))
    features = Features(np.zeros((len(labels), 2), np.float32), tuple(map(str, range(len(labels)))), labels)
    targets, held = features.targets(classes), 0
    for _ in range(2000):
        chances = rng.beta(4, 2, len(classes))  # of being right, by class
        right = rng.random(len(labels)) < chances[targets]
        scores = accuracies(np.where(right, targets, -1), features.keys, features.labels, classes)
        result = estimate(scores[:1])
        by_class = [right[targets == number].mean() for number in range(len(classes))]
        assert result.value == pytest.approx(np.mean(by_class))
        low, high = result.bounds()
        held += low <= chances.mean() <= high
    assert held >= 1800


def test_items_are_drawn_within_classes_of_many_items() -> None:
    """Where one class is always right and the other never, nothing but the numbers of both could vary."""
    for size in (10, 9):
        features = Features(np.zeros((2 * size, 2), np.float32), tuple(map(str, range(2 * size))), ("a", "b") * size)
        by_class = estimate(accuracies(np.zeros(2 * size, int), features.keys, features.labels, ("a", "b"))[:1])
        assert by_class.value == pytest.approx(0.5)
        assert float(np.ptp(by_class.pseudo_values)) == 0 if size == 10 else np.ptp(by_class.pseudo_values) > 0.2
        ends = by_class.bounds()
        assert ends is not None and ends[1] - ends[0] > 0.2  # that nothing varies makes nothing certain


def test_top_five_and_mapped_classes() -> None:
    features = Features(np.zeros((2, 2), dtype=np.float32), ("p", "q"), ("lamp", "cup"))
    ranked = np.array([(2, 0, 1, 3, 4), (1, 3, 4, 5, 0)])
    accepted = {"lamp": frozenset("bc"), "cup": frozenset("f")}  # of another set's classes
    by_class, top1, top5 = map(measure, accuracies(ranked, features.keys, features.labels, tuple("abcdef"), accepted))
    assert (by_class.value, top1.value, top5.value) == (0.5, 0.5, 1.0)
    assert top5.name == "top-5"


def test_a_task_is_measured_with_each_of_the_prompts() -> None:
    ids = ("n1", "n2", "n3", "n4")
    task = LabelledImages(
        "toys",
        ("p", "q"),
        (image_bytes("red"), image_bytes("blue")),
        ("n1", "n3"),
        choices=ids,
        names=dict(zip(ids, ("red", "green", "blue", "white"), strict=True)),
    )
    encoder = colour_encoder()
    result = list(ZeroShotEvaluator(task, ("name", "kinetics")).run(Embeddings(encoder)))
    assert [(score.prompts, score.classes, score.value, score.n) for score in result[1::2]] == [
        ("name", 4, 1.0, 2),
        ("kinetics", 4, 1.0, 2),
    ]
    assert (encoder.towers.text_count, encoder.towers.image_count) == (4 * 29, 2)


class LengthTowers(ColourTowers):
    """A text's vector is made of its length and its number of spaces."""

    def texts(self, texts, role=None):
        return np.array([(len(text), text.count(" "), 3) for text in texts], dtype=np.float32)


def test_imagenet_templates_are_openais() -> None:
    metadata = pytest.importorskip("open_clip.zero_shot_metadata")
    assert [template("{}") for template in metadata.OPENAI_IMAGENET_TEMPLATES] == list(IMAGENET_TEMPLATES)


def test_kinetics_templates_are_the_papers_28() -> None:
    assert len(set(KINETICS_TEMPLATES)) == len(KINETICS_TEMPLATES) == 28
    assert {"a photo of {}.", "a example of a person {}.", "a demonstration of a person during {}."} <= {
        *KINETICS_TEMPLATES
    }


def test_actions_have_the_48_templates_of_clip() -> None:
    """Those that CLIP was evaluated with on UCF101, in its order."""
    assert len(set(ACTION_TEMPLATES)) == len(ACTION_TEMPLATES) == 48
    assert ACTION_TEMPLATES[0] == "a photo of a person {}." and "a photo of {}." not in ACTION_TEMPLATES
    assert ACTION_TEMPLATES[-5:] == (
        "a demonstration of a person practicing {}.",
        "a photo of the person practicing {}.",
        "a video of the person practicing {}.",
        "a example of the person practicing {}.",
        "a demonstration of the person practicing {}.",
    )


def test_training_captions_use_templates_of_the_protocol() -> None:
    assert {*PHOTO_TEMPLATES, *DRAWING_TEMPLATES} <= {*IMAGENET_TEMPLATES}


def test_an_ensemble_is_the_unit_mean_of_unit_vectors() -> None:
    encoder = Encoder(LengthTowers())
    source = Embeddings(encoder)
    templates = ("{}", "a photo of {} and {}.")
    vectors = ensemble(source, ["cat", "{odd}"], templates)
    texts = [["cat", "a photo of cat and cat."], ["{odd}", "a photo of {odd} and {odd}."]]
    expected = unit(np.stack([encoder.encode_texts(pair).mean(axis=0) for pair in texts]))
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(ensemble(source, ["cat"], PROMPTS["name"]), encoder.encode_texts(["cat"]), rtol=1e-6)


def test_texts_without_a_finite_vector_are_a_model_error() -> None:
    class Broken(ColourTowers):
        def texts(self, texts, role=None):
            return np.full((len(texts), 3), np.nan, dtype=np.float32)

    with pytest.raises(ModelError, match="gives NaN or infinity in float32"):
        ensemble(Embeddings(Encoder(Broken())), ["cat"], IMAGENET_TEMPLATES)


def test_only_the_classes_of_kinetics_lose_their_parentheses() -> None:
    label = "passing American football (in game)"
    assert prompted_name(label, "kinetics") == "passing American football in game"
    assert prompted_name(label, "imagenet") == label


@pytest.mark.parametrize("given", ["cat,dog,other pet", " cat , dog,, other pet,cat,"])
def test_labels_with_commas_between(given: str) -> None:
    assert read_labels(given) == ["cat", "dog", "other pet"]


def test_labels_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffcat, tabby\r\n\r\nhund\u00fc\r\n".encode())
    assert read_labels(f"@{path}") == ["cat, tabby", "hund\u00fc"]
    path.write_bytes(b"caf\xe9\nbar\n")
    with pytest.raises(ConfigError, match="cannot be read: it is not UTF-8 text"):
        read_labels(f"@{path}")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_labels("@missing.txt")


@pytest.mark.parametrize("given", ["", "cat", "cat,cat", "labels.txt"])
def test_one_label_is_no_choice(given: str) -> None:
    with pytest.raises(ConfigError, match="at least two labels"):
        read_labels(given)
