"""Feature maps: which features, and hand-made maps whose colours and likeness are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.errors import ConfigError, ModelError
from perception_encoder.inference import feature_map
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.feature_map import (
    feature_maps,
    map_grid,
    principal_components,
    similarity,
    to_colours,
)
from perception_encoder.models.checkpoints.weights import create_model


def two_regions(seed: int = 0) -> np.ndarray:
    """A map (12, 16, 8) whose left half is one vector and whose right half is another."""
    left, right = np.random.default_rng(seed).normal(size=(2, 8)).astype(np.float32)
    features = np.empty((12, 16, 8), np.float32)
    features[:, :8], features[:, 8:] = left, right
    return features


def test_features_are_those_that_embed_gives(encoder: Encoder) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))
    side = encoder.visual.config.image_size // encoder.visual.config.patch_size
    found = feature_maps(encoder, image, patches=side)
    assert list(found.layers) == list(range(12)) and found.image.size == (side * 16,) * 2
    for layer in (0, 5, 11):
        tokens = encoder.encode(image, normalize=False, layer=layer, pool="tokens")
        np.testing.assert_allclose(found.layers[layer].reshape(side * side, -1), tokens, atol=1e-5)
    some = feature_maps(encoder, image, [-1, 2], patches=side)
    assert list(some.layers) == [2, 11] and np.allclose(some.layers[2], found.layers[2], atol=1e-6)


def test_the_aspect_ratio_is_kept_to_the_patch(encoder: Encoder) -> None:
    found = feature_maps(encoder, Image.new("RGB", (300, 100)), [0], patches=6)
    assert found.layers[0].shape == (2, 6, encoder.visual.config.width) and found.image.size == (96, 32)
    assert map_grid((1000, 3)) == (1, 40) and map_grid((3, 4), 8) == (8, 6)
    with pytest.raises(ConfigError, match="patches is 0"):
        map_grid((3, 4), 0)
    with pytest.raises(ConfigError, match="has layers 0 to 11"):
        feature_maps(encoder, Image.new("RGB", (8, 8)), [12])


def test_features_that_are_not_finite_are_no_map() -> None:
    model = create_model("PE-Core-N16-128")
    with torch.no_grad():
        model.visual.conv1.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="NaN or infinity"):
        feature_maps(Encoder.of(model, "cpu", torch.float32), Image.new("RGB", (8, 8)), patches=2)


@pytest.mark.parametrize("seed", range(5))
def test_two_regions_get_two_colours_and_the_same_ones_each_time(seed: int) -> None:
    colours = to_colours(two_regions(seed))
    assert colours.shape == (12, 16, 3) and colours.dtype == np.uint8
    left, right = colours[:, :7].reshape(-1, 3), colours[:, 9:].reshape(-1, 3)
    assert len(np.unique(left, axis=0)) == len(np.unique(right, axis=0)) == 1
    lightness = [int(side[0].astype(int).sum()) for side in (left, right)]
    assert lightness[0] > lightness[1] + 100  # of equal sides the left one is light, whichever vector it has
    assert np.array_equal(left[0], to_colours(two_regions(seed + 100))[0, 0])  # the vectors themselves do not matter


def test_the_middle_is_lighter_than_the_border() -> None:
    features = np.zeros((9, 9, 4), np.float32)
    features[3:6, 3:6] = [-1, 2, 0, 5]
    for sign in (1, -1):
        colours = to_colours(sign * features).astype(int)
        assert colours[4, 4].sum() > colours[0, 0].sum() + 100


def test_a_map_without_differences_is_one_colour() -> None:
    colours = to_colours(np.ones((4, 6, 5), np.float32))
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 1
    assert to_colours(np.ones((1, 1, 5), np.float32)).shape == (1, 1, 3)


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    features = np.random.default_rng(1).normal(size=(7, 9, 20))
    vectors = features.reshape(63, 20) - features.reshape(63, 20).mean(axis=0)
    left, sizes, _ = np.linalg.svd(vectors, full_matrices=False)
    found = principal_components(features, 3).reshape(63, 3)
    np.testing.assert_allclose(np.abs(found), np.abs(left[:, :3] * sizes[:3]), atol=1e-8)


def test_half_of_the_map_and_half_of_its_blur() -> None:
    features = np.zeros((5, 5, 2), np.float32)
    features[2, 2, 0] = 1
    component = principal_components(feature_map._blend_with_blur(features), 1)[..., 0]
    grid = torch.exp(-0.5 * torch.tensor([1.0, 0.0, 1.0]))
    kernel = torch.outer(grid, grid) / grid.sum() ** 2
    wanted = np.zeros((5, 5))
    wanted[1:4, 1:4] = 0.5 * kernel.numpy()
    wanted[2, 2] += 0.5
    np.testing.assert_allclose(component, wanted - wanted.mean(), atol=1e-7)


def test_similarity_is_the_cosine_to_one_place() -> None:
    features = np.array([[[1, 0], [0, 3]], [[2, 2], [-5, 0]]], np.float32)
    np.testing.assert_allclose(similarity(features, 0, 0), [[1, 0], [0.5**0.5, -1]], atol=1e-6)
