"""The published templates, and a class as the mean of its sentences."""

from __future__ import annotations

import numpy as np
import pytest

from perception_encoder.errors import ModelError
from perception_encoder.evaluation.classification.zero_shot import (
    ACTION_TEMPLATES,
    IMAGENET_TEMPLATES,
    KINETICS_TEMPLATES,
    PROMPTS,
    ensemble,
)
from perception_encoder.preprocess.prompts import PHOTO_TEMPLATES
from synthetic.builtin.rules import DRAWING_TEMPLATES
from tests.evaluation.colours import ColourEncoder, unit


class LengthEncoder(ColourEncoder):
    """A text's vector is made of its length and its number of spaces."""

    def encode_texts(self, texts):
        return unit(np.array([(len(text), text.count(" "), 3) for text in texts], dtype=np.float32))


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
    encoder = LengthEncoder()
    templates = ("{}", "a photo of {} and {}.")
    vectors = ensemble(encoder, ["cat", "{odd}"], templates)
    texts = [["cat", "a photo of cat and cat."], ["{odd}", "a photo of {odd} and {odd}."]]
    expected = unit(np.stack([encoder.encode_texts(pair).mean(axis=0) for pair in texts]))
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(ensemble(encoder, ["cat"], PROMPTS["name"]), encoder.encode_texts(["cat"]), rtol=1e-6)


def test_texts_without_a_finite_vector_are_a_model_error() -> None:
    class Broken(ColourEncoder):
        def encode_texts(self, texts):
            return np.full((len(texts), 3), np.nan, dtype=np.float32)

    with pytest.raises(ModelError, match=r"colours gives NaN or infinity in 80 of 80 vectors of the prompts"):
        ensemble(Broken(), ["cat"], IMAGENET_TEMPLATES)
