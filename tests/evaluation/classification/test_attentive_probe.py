"""An attentive probe finds the token that matters, chooses its learning rate, and is the same each time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import ConfigError, DataError, ModelError
from perception_encoder.evaluation.classification.attentive_probe import (
    AttentiveConfig,
    fit_attentive,
)
from perception_encoder.evaluation.feature_cache import encode_layers
from perception_encoder.evaluation.inputs import inputs_of
from tests.clips import clip
from tests.layer_analysis.toys import toy_layers

CONFIG = AttentiveConfig(fit=FitConfig(epochs=12, batch=32), learning_rates=(3e-3,))


def hidden_tokens(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (n, 9, 16): one of them, at a random place, is marked and holds the class; the mean token says little."""
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((count, 9, 16)).astype(np.float32)
    targets = rng.integers(0, 3, count)
    for row, place in enumerate(rng.integers(0, 9, count)):
        tokens[row, place, 3] = 9.0  # the mark
        tokens[row, place, :3] = 4.0 * np.eye(3)[targets[row]]
    return tokens, targets


def test_the_probe_attends_to_what_matters() -> None:
    (train, targets), (val, val_targets), (test, test_targets) = (
        hidden_tokens(n, s) for n, s in ((400, 0), (90, 1), (300, 2))
    )
    probe, _ = fit_attentive(train, targets, val, val_targets, 3, CONFIG)
    right = probe.scores(test).argmax(axis=1) == test_targets
    mean_right = (test.mean(axis=1)[:, :3].argmax(axis=1) == test_targets).mean()
    assert right.mean() > 0.9 > mean_right


def test_the_learning_rate_is_chosen_on_val() -> None:
    train, targets = hidden_tokens(200, 0)
    config = replace(CONFIG, fit=FitConfig(epochs=6, batch=32), learning_rates=(1e-6, 3e-3))
    assert fit_attentive(train, targets, *hidden_tokens(90, 1), 3, config)[1] == 3e-3


def test_the_same_seed_trains_the_same_probe() -> None:
    (train, targets), config = hidden_tokens(60, 0), replace(CONFIG, fit=FitConfig(epochs=1))
    first, again = (fit_attentive(train, targets, train, targets, 3, config)[0].scores(train) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = replace(config, fit=config.fit.with_seed(1))
    assert (fit_attentive(train, targets, train, targets, 3, other)[0].scores(train) != first).any()


def test_the_scale_of_a_token_changes_nothing() -> None:
    train, targets = hidden_tokens(40, 0)
    probe, _ = fit_attentive(train, targets, train, targets, 3, CONFIG)
    scales = np.random.default_rng(0).uniform(1, 9, (*train.shape[:2], 1)).astype(np.float32)
    np.testing.assert_allclose(probe.scores(train * scales), probe.scores(train), atol=0.01)


def test_bad_input_is_refused() -> None:
    train, targets = hidden_tokens(40, 0)
    with pytest.raises(DataError, match="have the same class"):
        fit_attentive(train, np.zeros(40, np.int64), train, targets, 3, CONFIG)
    with pytest.raises(ModelError, match=r"learning rate 0\.003: the loss is nan"):
        fit_attentive(train * np.nan, targets, train, targets, 3, CONFIG)
    with pytest.raises(ConfigError, match="head_seeds is 0; it must be at least 1"):
        AttentiveConfig(head_seeds=0)
    with pytest.raises(ConfigError, match="learning_rates is empty"):
        AttentiveConfig(learning_rates=())


def test_tokens_of_a_video_are_those_of_its_frames(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(clip(12))
    video = LabelledImages("clips", ("v",), (tmp_path / "v.mp4",), ("red",))
    images = inputs_of(video, 4)
    features, frames = encode_layers(toy_layers(), images, [2])[2], toy_layers().encode_layers(images.open(0), [2])[2]
    assert features.tokens.shape == (1, 4 * (1 + 16), 3)
    np.testing.assert_allclose(features.mean()[0], frames.patches.mean(axis=(0, 1, 2)), rtol=1e-5)
