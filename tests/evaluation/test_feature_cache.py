"""The cache of features: its content and its keys, a killed run that resumes, and the inputs of layers' evaluators."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.datasets.labelled import ImageSet
from perception_encoder.dense_prediction.depth import DepthConfig
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import DataError, InputError, ModelError, OutputError
from perception_encoder.evaluation import feature_cache as module
from perception_encoder.evaluation.dense.depth import DepthEvaluator, DepthProtocol
from perception_encoder.evaluation.feature_cache import ComputedRows, FeatureCache, encode_layers
from perception_encoder.evaluation.inputs import EncoderInputs, content_digest
from perception_encoder.evaluation.layer_evaluator import LayerSource
from tests.datasets.drawn import pairs, rooms
from tests.evaluation.layers import colour_layers, png
from tests.layer_analysis.toys import greys, toy_layers

LAYERS = [0, 2, 3]


def contents(directory: Path) -> dict[str, bytes]:
    """Return every file of a directory but the locks."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*.*") if path.is_file()
    }


def test_every_layer_of_what_can_be_decoded(tmp_path: Path) -> None:
    encoder, images = toy_layers(), greys(10, broken=(1, 6))
    stored = encode_layers(encoder, images, LAYERS, FeatureCache(directory=tmp_path, dtype="float32"), chunk=4)
    assert [str(failure) for failure in stored[0].failures] == ["grey 1: is cut", "grey 6: is cut"]
    rows = [0, 2, 3, 4, 5, 7, 8, 9]
    expected = encoder.encode_layers([images.open(row)[0] for row in rows], LAYERS)
    for layer in LAYERS:
        features = stored[layer]
        assert (
            isinstance(features.tokens, np.memmap) and features.tokens.shape == (8, 17, 3) and features.grid == (4, 4)
        )
        np.testing.assert_array_equal(features.rows, rows)
        np.testing.assert_array_equal(features.patches, expected[layer].patches)
        np.testing.assert_array_equal(features.tokens[:, :1], expected[layer].prefix)
        np.testing.assert_allclose(features.mean(), expected[layer].patches.mean(axis=(1, 2)), atol=1e-6)


def test_a_set_is_encoded_once(tmp_path: Path) -> None:
    encoder, cache = toy_layers(), FeatureCache(directory=tmp_path)
    first = encode_layers(encoder, greys(5), LAYERS, cache)
    again = encode_layers(encoder, greys(5), LAYERS, cache)
    assert encoder.towers.encoded == 5 and first[0].tokens.dtype == np.float16
    assert all((again[layer].tokens == first[layer].tokens).all() for layer in LAYERS)


def test_the_key_is_of_all_that_features_depend_on(tmp_path: Path) -> None:
    cache = FeatureCache(directory=tmp_path)
    same = {cache.key(toy_layers(name=name), greys(5, name=what), LAYERS) for name, what in (("a", "x"), ("b", "y"))}
    others = {
        cache.key(toy_layers(weights="w2"), greys(5), LAYERS),
        cache.key(toy_layers(image_size=(32, 32)), greys(5), LAYERS),
        cache.key(toy_layers(), greys(6), LAYERS),
        cache.key(toy_layers(), greys(5), [0]),
        FeatureCache(directory=tmp_path, dtype="float32").key(toy_layers(), greys(5), LAYERS),
    }
    assert len(same) == 1 and len(others | same) == 6


class StopError(Exception):
    """What interrupts a test's run."""


@pytest.mark.parametrize("limit", ["items", "bytes"])
@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_stopped_run_resumes_with_the_same_batches_to_the_same_bytes(
    at: int, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, begun, chunk = greys(11, broken=(2, 9)), list[int](), 4
    if limit == "bytes":
        chunk = 64
        monkeypatch.setattr(module, "BYTES", 4 * (4 * 16 * 3 * len(LAYERS)) + 100)

    def stop(encoded: int) -> None:
        if encoded >= at:
            raise StopError
        begun.append(encoded)

    whole, resumed = (FeatureCache(directory=tmp_path / name) for name in ("whole", "resumed"))
    encode_layers(toy_layers(before=begun.append), images, LAYERS, whole, chunk=chunk)
    assert begun == [0, 3, 7]
    begun.clear()
    with pytest.raises(StopError):
        encode_layers(toy_layers(before=stop), images, LAYERS, resumed, chunk=chunk)
    after = toy_layers(before=lambda encoded: begun.append(at + encoded))
    encode_layers(after, images, LAYERS, resumed, chunk=chunk)
    assert begun == [0, 3, 7] and contents(tmp_path / "whole") == contents(tmp_path / "resumed")


def test_features_that_are_not_finite_or_too_large_are_errors(tmp_path: Path) -> None:
    cache = FeatureCache(directory=tmp_path)
    with pytest.raises(ModelError, match="3 of 3 vectors of greys"):
        encode_layers(toy_layers(scale=float("nan")), greys(3), LAYERS, cache)
    with pytest.raises(ModelError, match="too large for float16"):
        encode_layers(toy_layers(scale=1e6), greys(3), LAYERS, cache)
    encode_layers(toy_layers(scale=1e6), greys(3), LAYERS, FeatureCache(directory=tmp_path, dtype="float32"))


def test_sets_without_greys(tmp_path: Path) -> None:
    cache = FeatureCache(directory=tmp_path)
    with pytest.raises(DataError, match="greys has no images"):
        encode_layers(toy_layers(), greys(0), LAYERS, cache)
    stored = encode_layers(toy_layers(), greys(2, broken=(0, 1)), LAYERS, cache)
    assert len(stored[0].tokens) == 0 and len(stored[0].failures) == 2


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE", 1 << 62)
    with pytest.raises(OutputError, match="GB for features and the disk has"):
        encode_layers(toy_layers(), greys(3), LAYERS, FeatureCache(directory=tmp_path))


SHADES = tuple(b"cut" if grey == 60 else png(np.full((8, 16, 3), grey, np.uint8)) for grey in (0, 60, 120, 180))
SHADED = ImageSet(name="shades", keys=tuple("abcd"), images=SHADES)


def shades(image_set: ImageSet = SHADED) -> EncoderInputs:
    return EncoderInputs.of("shades, test", image_set, lambda row: None)


def test_features_that_do_not_fit_are_computed_again() -> None:
    encoder = colour_layers(4, (8, 16))
    cached, computed = (encode_layers(encoder, shades(), [0], chunk=2, limit=limit)[0] for limit in (1e9, 0))
    assert isinstance(computed.tokens, ComputedRows) and not isinstance(cached.tokens, ComputedRows)
    assert cached.rows.tolist() == computed.rows.tolist() == [0, 2, 3]
    assert cached.patches.shape == computed.patches.shape == (3, 2, 4, 3) == cached.patches[:].shape
    for rows in (slice(1, 3), np.array([2, 0]), slice(None)):
        assert (cached.patches[rows] == computed.patches[rows]).all()
        assert (cached.tokens[rows] == computed.tokens[rows]).all()
    assert (cached.mean() == computed.mean()).all()
    assert [failure.source for failure in cached.failures] == [failure.source for failure in computed.failures] == ["b"]


def test_a_mix_of_images_and_videos_is_refused() -> None:
    mixed = EncoderInputs(
        name="mixed",
        keys=("a", "b"),
        open=lambda row: [Image.new("RGB", (8, 8))] * (row + 1),
        compute_digest=lambda: "",
    )
    with pytest.raises(DataError, match="mixed mixes images and videos"):
        encode_layers(colour_layers(), mixed, [0])[0]


def test_an_image_whose_target_fails_is_not_encoded() -> None:
    def target(row: int) -> None:
        if row == 2:
            raise InputError("c (mask)", "is empty")

    features = encode_layers(colour_layers(), EncoderInputs.of("shades", SHADED, target), [0])[0]
    assert features.rows.tolist() == [0, 3] and [failure.source for failure in features.failures] == ["b", "c (mask)"]


def test_the_digest_is_that_of_the_content_and_of_what_is_left_out() -> None:
    assert shades().digest == content_digest(SHADED.images) != shades(SHADED.select([0, 1])).digest

    def target(row: int) -> None:
        raise InputError(str(row), "is empty")

    assert EncoderInputs.of("shades", SHADED, target).digest == f"{shades().digest}, without [0, 1, 2, 3]"


def test_the_test_set_is_not_encoded_without_training_shades() -> None:
    encoder, depths = colour_layers(4, (24, 32)), rooms(2, 0)
    encoded: list[int] = []
    encode = encoder.encode_layers
    encoder.encode_layers = lambda images, *rest: encoded.append(len(images)) or encode(images, *rest)
    bad = replace(pairs("a", depths), images=(b"cut", b"cut"))
    protocol = DepthProtocol(head=DepthConfig(channels=4, fit=FitConfig(epochs=1)))
    with pytest.raises(DataError, match="depth: no image can be used"):
        list(DepthEvaluator(bad, pairs("b", depths), protocol).run(LayerSource(encoder.at(0))))
    assert encoded == []
    cut = replace(pairs("b", depths), images=(pairs("b", depths).images[0], b"cut"))
    list(DepthEvaluator(pairs("a", depths), cut, protocol).run(LayerSource(encoder.at(0))))
    assert encoded == [2, 1]
