"""Names with probabilities: against torch's softmax, and labels as people write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from perception_encoder.errors import ConfigError
from perception_encoder.evaluation.classification.labels import Namer, read_labels
from perception_encoder.evaluation.classification.prompts import PHOTO_TEMPLATES, ensemble
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.weights import create_model


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(create_model("builtin"), "cpu", torch.float32)


def test_probabilities_are_the_softmax_that_the_model_was_trained_with(encoder: Encoder) -> None:
    labels = ["cat", "dog", "red mug"]
    vectors = encoder.encode_texts(["a cat", "a tall tree", "mug", "b"])
    logits = encoder.model.logit_scale.detach().exp() * torch.from_numpy(
        vectors @ ensemble(encoder, labels, PHOTO_TEMPLATES).T
    )
    expected = logits.softmax(dim=1).numpy()
    for row, guesses in zip(expected, Namer(encoder, labels).guess(vectors, top=3), strict=True):
        assert [guess.label for guess in guesses] == [labels[column] for column in np.argsort(-row)]
        np.testing.assert_allclose([guess.probability for guess in guesses], np.sort(row)[::-1], rtol=1e-4)


def test_only_the_top_labels_are_given_and_none_for_no_vectors(encoder: Encoder) -> None:
    namer = Namer(encoder, ["cat", "dog", "mug"], "name")
    assert [len(guesses) for guesses in namer.guess(encoder.encode_texts(["a", "b"]), top=2)] == [2, 2]
    assert Namer(encoder, ["cat", "dog", "cat"], "name").labels == ("cat", "dog")
    assert namer.guess(np.empty((0, encoder.dimension), np.float32), top=2) == []


def test_other_prompts_give_other_vectors_and_unknown_ones_an_error(encoder: Encoder) -> None:
    vectors = [Namer(encoder, ["cat", "dog"], prompts).classifier.vectors for prompts in ("name", "photo")]
    assert not np.allclose(*vectors)
    with pytest.raises(ConfigError, match="'openai'; choose from"):
        Namer(encoder, ["cat", "dog"], "openai")


def test_a_model_without_text_names_nothing(encoder: Encoder) -> None:
    vision = Encoder(encoder.model.visual, "cpu", torch.float32)
    with pytest.raises(ConfigError, match="no text tower"):
        Namer(vision, ["cat", "dog"])


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
