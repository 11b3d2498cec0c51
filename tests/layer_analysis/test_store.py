"""The store of features: its content and its keys, and a killed run that resumes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import ConfigError, DataError, ModelError, OutputError
from perception_encoder.layer_analysis import store
from perception_encoder.layer_analysis.store import (
    StoreConfig,
    chunk_size,
    extract,
    feature_key,
    missing_bytes,
    show_bytes,
)
from tests.layer_analysis.toys import ToyEncoder, greys

LAYERS = [0, 2, 3]


def contents(directory: Path) -> dict[str, bytes]:
    """Return every file of a directory but the locks."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*.*") if path.is_file()
    }


def test_every_layer_of_what_can_be_decoded(tmp_path: Path) -> None:
    encoder, images = ToyEncoder(), greys(10, broken=(1, 6))
    stored = extract(encoder, images, LAYERS, StoreConfig(directory=tmp_path, dtype="float32", chunk=4))
    assert [str(failure) for failure in stored.failures] == ["grey 1: is cut", "grey 6: is cut"]
    rows = [0, 2, 3, 4, 5, 7, 8, 9]
    expected = encoder.encode_layers([images.open(row)[0] for row in rows], LAYERS)
    for layer in LAYERS:
        features = stored.read(layer)
        assert (
            isinstance(features.tokens, np.memmap) and features.tokens.shape == (8, 17, 3) and features.grid == (4, 4)
        )
        np.testing.assert_array_equal(features.rows, rows)
        np.testing.assert_array_equal(features.patches, expected[layer].patches)
        np.testing.assert_array_equal(features.tokens[:, :1], expected[layer].prefix)
        np.testing.assert_allclose(features.mean(), expected[layer].patches.mean(axis=(1, 2)), atol=1e-6)


def test_a_set_is_encoded_once(tmp_path: Path) -> None:
    encoder, config = ToyEncoder(), StoreConfig(directory=tmp_path)
    first = extract(encoder, greys(5), LAYERS, config)
    assert extract(encoder, greys(5), LAYERS, config).key == first.key and encoder.encoded == 5
    assert first.read(0).tokens.dtype == np.float16


def test_the_key_is_of_all_that_features_depend_on(tmp_path: Path) -> None:
    config = StoreConfig(directory=tmp_path)
    same = {
        feature_key(ToyEncoder(name=name), greys(5, name=what), LAYERS, config)
        for name, what in (("a", "x"), ("b", "y"))
    }
    others = {
        feature_key(ToyEncoder(weights="w2"), greys(5), LAYERS, config),
        feature_key(ToyEncoder(image_size=(32, 32)), greys(5), LAYERS, config),
        feature_key(ToyEncoder(), greys(6), LAYERS, config),
        feature_key(ToyEncoder(), greys(5), [0], config),
        feature_key(ToyEncoder(), greys(5), LAYERS, StoreConfig(directory=tmp_path, dtype="float32")),
    }
    assert len(same) == 1 and len(others | same) == 6


def test_stores_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Under another key features would be encoded again."""
    key = feature_key(ToyEncoder(), greys(5), LAYERS, StoreConfig(directory=tmp_path))
    assert key == "4dd1d13424e91022200a"


class StopError(Exception):
    """What interrupts a test's run."""


@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_stopped_run_resumes_to_the_same_bytes(at: int, tmp_path: Path) -> None:
    def stop(encoded: int) -> None:
        if encoded >= at:
            raise StopError

    images = greys(11, broken=(2, 9))
    whole, resumed = (StoreConfig(directory=tmp_path / name, chunk=4) for name in ("whole", "resumed"))
    extract(ToyEncoder(), images, LAYERS, whole)
    with pytest.raises(StopError):
        extract(ToyEncoder(before=stop), images, LAYERS, resumed)
    after = ToyEncoder()
    extract(after, images, LAYERS, resumed)
    assert after.encoded == 9 - at and contents(tmp_path / "whole") == contents(tmp_path / "resumed")


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, root: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from perception_encoder.layer_analysis.store import StoreConfig, extract
from tests.layer_analysis.toys import ToyEncoder, greys
kill = lambda encoded: os.kill(os.getpid(), signal.SIGKILL) if encoded >= 8 else None
config = StoreConfig(directory=Path({str(tmp_path / "killed")!r}), chunk=4)
extract(ToyEncoder(before=kill), greys(11), {LAYERS}, config)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, timeout=200)
    assert done.returncode == -9
    after = ToyEncoder()
    extract(after, greys(11), LAYERS, StoreConfig(directory=tmp_path / "killed", chunk=4))
    extract(ToyEncoder(), greys(11), LAYERS, StoreConfig(directory=tmp_path / "whole", chunk=4))
    assert after.encoded == 3 and contents(tmp_path / "whole") == contents(tmp_path / "killed")


def test_a_chunk_is_as_large_as_its_bytes_allow() -> None:
    large = ToyEncoder(patch_size=14, width=1536)  # as PE-Core-G14-448, an image 315 MB
    assert chunk_size(large, (448, 448), range(50)) == 6
    assert chunk_size(large, (448, 448), range(50), most=4) == 4
    assert chunk_size(large, (448, 448), [49]) == store.CHUNK
    assert chunk_size(large, (1792, 1792), range(50)) == 1


@pytest.mark.parametrize("at", [4, 8])
def test_a_run_in_chunks_of_bytes_resumes_with_the_same_batches(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BYTES", 4 * (4 * 16 * 3 * len(LAYERS)) + 100)
    images, begun = greys(11), []

    def stop(encoded: int) -> None:
        if encoded >= at:
            raise StopError
        begun.append(encoded)

    extract(
        ToyEncoder(before=begun.append),
        images,
        LAYERS,
        StoreConfig(directory=tmp_path / "whole"),
    )
    assert begun == [0, 4, 8]
    begun.clear()
    resumed = StoreConfig(directory=tmp_path / "resumed")
    with pytest.raises(StopError):
        extract(ToyEncoder(before=stop), images, LAYERS, resumed)
    extract(ToyEncoder(before=lambda encoded: begun.append(at + encoded)), images, LAYERS, resumed)
    assert begun == [0, 4, 8] and contents(tmp_path / "whole") == contents(tmp_path / "resumed")


def test_a_set_that_was_begun_in_other_chunks_is_resumed(tmp_path: Path) -> None:
    def stop(encoded: int) -> None:
        if encoded >= 5:
            raise StopError

    whole, begun = (StoreConfig(directory=tmp_path / name, chunk=4) for name in ("whole", "begun"))
    extract(ToyEncoder(), greys(11), LAYERS, whole)
    with pytest.raises(StopError):
        extract(ToyEncoder(before=stop), greys(11), LAYERS, StoreConfig(directory=tmp_path / "begun", chunk=5))
    after = ToyEncoder()
    extract(after, greys(11), LAYERS, begun)
    assert after.encoded == 6 and contents(tmp_path / "whole") == contents(tmp_path / "begun")


def test_features_that_are_not_finite_or_too_large_are_errors(tmp_path: Path) -> None:
    config = StoreConfig(directory=tmp_path)
    with pytest.raises(ModelError, match="toy gives NaN or infinity at layer 0, for images of greys"):
        extract(ToyEncoder(scale=float("nan")), greys(3), LAYERS, config)
    with pytest.raises(ModelError, match="too large for float16; store features as float32"):
        extract(ToyEncoder(scale=1e6), greys(3), LAYERS, config)
    extract(ToyEncoder(scale=1e6), greys(3), LAYERS, StoreConfig(directory=tmp_path, dtype="float32"))


def test_sets_without_greys(tmp_path: Path) -> None:
    config = StoreConfig(directory=tmp_path)
    with pytest.raises(DataError, match="greys: it has no images"):
        extract(ToyEncoder(), greys(0), LAYERS, config)
    stored = extract(ToyEncoder(), greys(2, broken=(0, 1)), LAYERS, config)
    assert len(stored.read(0).tokens) == 0 and len(stored.failures) == 2


def test_what_features_will_take(tmp_path: Path) -> None:
    config, images = StoreConfig(directory=tmp_path / "none yet"), greys(5)
    wide = replace(images, image_size=(8, 24))
    each = 2 * len(LAYERS) * 5 * 3  # bytes of a token of every layer and image
    assert missing_bytes(ToyEncoder(), [images, images, wide], LAYERS, config) == each * (1 + 16 + 1 + 2 * 6)
    extract(ToyEncoder(), images, LAYERS, config)
    assert missing_bytes(ToyEncoder(), [images, wide], LAYERS, config) == each * (1 + 2 * 6)
    assert (show_bytes(44_200_000_000), show_bytes(1_500_000)) == ("44.2 GB", "1.5 MB")


def test_a_full_disk_and_damaged_files_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = StoreConfig(directory=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(store, "SPARE", 1 << 62)
        with pytest.raises(OutputError, match="MB for features and the disk has"):
            extract(ToyEncoder(), greys(3), LAYERS, config)
    stored = extract(ToyEncoder(), greys(3), LAYERS, config)
    (stored.directory / "layer_02.npy").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"layer_02\.npy is missing or damaged"):
        stored.read(2)
    (stored.directory / "progress.json").write_text("{")
    with pytest.raises(DataError, match=r"progress\.json is damaged"):
        extract(ToyEncoder(), greys(3), LAYERS, config)
    with pytest.raises(ConfigError, match="dtype is 'int8'; it must be float16 or float32"):
        StoreConfig(directory=tmp_path, dtype="int8")
