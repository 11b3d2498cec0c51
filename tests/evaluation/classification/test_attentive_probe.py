"""An attentive probe finds the token that matters, chooses its learning rate, and is the same each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.errors import ConfigError, DataError, ModelError
from perception_encoder.evaluation.classification.attentive_probe import (
    AttentiveConfig,
    AttentiveEvaluator,
    fit_attentive,
)
from perception_encoder.evaluation.classification.splits import Splits
from perception_encoder.evaluation.feature_cache import encode_layer
from perception_encoder.inference.layer_features import LayerFeatures, LayerTokens
from tests.clips import clip
from tests.evaluation.colours import image_bytes

CONFIG = AttentiveConfig(epochs=12, learning_rates=(3e-3,), batch=32)


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
    config = AttentiveConfig(epochs=6, learning_rates=(1e-6, 3e-3), batch=32)
    assert fit_attentive(train, targets, *hidden_tokens(90, 1), 3, config)[1] == 3e-3


def test_the_same_seed_trains_the_same_probe() -> None:
    (train, targets), config = hidden_tokens(60, 0), AttentiveConfig(epochs=1, learning_rates=(3e-3,))
    first, again = (fit_attentive(train, targets, train, targets, 3, config)[0].scores(train) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = replace(config, seed=1)
    assert (fit_attentive(train, targets, train, targets, 3, other)[0].scores(train) != first).any()


def test_bad_input_is_refused() -> None:
    train, targets = hidden_tokens(40, 0)
    with pytest.raises(DataError, match="have the same class"):
        fit_attentive(train, np.zeros(40, np.int64), train, targets, 3, CONFIG)
    with pytest.raises(ModelError, match="the probe's loss is nan"):
        fit_attentive(train * np.nan, targets, train, targets, 3, CONFIG)
    with pytest.raises(ConfigError, match="at least 1"):
        AttentiveConfig(epochs=0)


class ColourLayers(LayerFeatures):
    """Two layers: the first one's patches are the colours of the image's quarters, the second's are all alike."""

    name, depth, width, patch_size, image_size = "colours", 2, 3, 8, (16, 16)

    def __init__(self) -> None:
        self.device = None

    @property
    def about(self) -> dict[str, str]:
        return {"weights": self.name, "dtype": "float32", "device": "cpu"}

    def encode_layers(
        self, images: Sequence[Image.Image], layers: Sequence[int], image_size: tuple[int, int] | None = None
    ) -> dict[int, LayerTokens]:
        if not set(layers) <= {0, 1}:
            raise ConfigError(f"layer {layers[0]} does not exist; colours has layers 0 to 1")
        small = np.stack([np.asarray(image.convert("RGB").resize((2, 2)), np.float32) for image in images]) / 255
        prefix = np.zeros((len(images), 1, 3), np.float32)
        return {layer: LayerTokens(prefix, small if layer == 0 else np.ones_like(small)) for layer in layers}


COLOURS = ["red", "green", "blue"]


def samples(name: str, labels: list[str], shade: int, broken: Sequence[int] = ()) -> LabelledImages:
    result = tuple(b"?" if i in broken else image_bytes(label, shade + i) for i, label in enumerate(labels))
    return LabelledImages("toys", tuple(f"{name}{i}" for i in range(len(labels))), result, tuple(labels))


def splits() -> Splits:
    return Splits(
        train=samples("a", COLOURS * 10, 0, [2]),
        val=samples("b", COLOURS, 40),
        test=samples("c", COLOURS * 3, 50, [1]),
    )


def test_a_task_is_measured_at_a_layer() -> None:
    config = AttentiveConfig(epochs=20, learning_rates=(1e-2,), batch=8)
    for layer, low, high in ((0, 0.9, 1.0), (-1, 0.2, 0.5)):
        (result,) = AttentiveEvaluator(splits(), config).run(ColourLayers().at(layer % 2))
        failures = result.failures
        assert [failure.source for failure in failures] == ["a2", "c1"]
        expected = {"layer": str(layer % 2), "lr": "0.01/0.01/0.01", "train": "29", "head seeds": "3"}
        assert result.settings == expected and [score.seed for score in result.scores] == [0, 0, 1, 1, 2, 2]
        assert (result.metrics[0].name, result.metrics[0].n) == ("mean class accuracy", 8)
        assert low <= result.metrics[0].value <= high
    with pytest.raises(ConfigError, match="layer 2 does not exist"):
        AttentiveEvaluator(splits(), config).run(ColourLayers().at(2))


def test_sets_of_undecodable_images_are_named() -> None:
    bad = replace(splits(), test=samples("d", COLOURS, 0, range(3)))
    with pytest.raises(DataError, match="toys: no image can be decoded; the first: d0"):
        AttentiveEvaluator(bad, CONFIG).run(ColourLayers().at(0))


def test_tokens_of_a_video_are_those_of_its_frames(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(clip(12))
    video = LabelledImages("clips", ("v",), (tmp_path / "v.mp4",), ("red",))
    images, *_ = AttentiveEvaluator(Splits(train=video, val=video, test=video), frames=4).images(ColourLayers())
    assert encode_layer(ColourLayers(), images, 0).tokens.shape == (1, 4 * 5, 3)
    mixed = replace(images, keys=("v", "w"), open=lambda row: images.open(0)[: 1 + 3 * row])
    with pytest.raises(DataError, match="clips mixes images and videos"):
        encode_layer(ColourLayers(), mixed, 0)
