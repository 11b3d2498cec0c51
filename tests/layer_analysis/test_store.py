"""The store of features: what it holds, and that a run goes on where it was killed."""

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
from tests.layer_analysis.toys import ToyEncoder, pictures

LAYERS = [0, 2, 3]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the locks."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def test_every_layer_of_what_can_be_decoded(tmp_path: Path) -> None:
    encoder, shown = ToyEncoder(), pictures(10, broken=(1, 6))
    stored = extract(encoder, shown, LAYERS, StoreConfig(folder=tmp_path, dtype="float32", chunk=4))
    assert [str(failure) for failure in stored.failures] == ["grey 1: is cut", "grey 6: is cut"]
    rows = [0, 2, 3, 4, 5, 7, 8, 9]
    wanted = encoder.encode_layers([shown.open(row) for row in rows], LAYERS)
    for layer in LAYERS:
        found = stored.read(layer)
        assert isinstance(found.tokens, np.memmap) and found.tokens.shape == (8, 17, 3) and found.grid == (4, 4)
        np.testing.assert_array_equal(found.rows, rows)
        np.testing.assert_array_equal(found.patches, wanted[layer].patches)
        np.testing.assert_array_equal(found.tokens[:, :1], wanted[layer].prefix)
        np.testing.assert_allclose(found.mean(), wanted[layer].patches.mean(axis=(1, 2)), atol=1e-6)


def test_a_set_is_encoded_once(tmp_path: Path) -> None:
    encoder, config = ToyEncoder(), StoreConfig(folder=tmp_path)
    first = extract(encoder, pictures(5), LAYERS, config)
    assert extract(encoder, pictures(5), LAYERS, config).key == first.key and encoder.seen == 5
    assert first.read(0).tokens.dtype == np.float16


def test_the_key_is_of_all_that_features_depend_on(tmp_path: Path) -> None:
    config = StoreConfig(folder=tmp_path)
    same = {
        feature_key(ToyEncoder(name=name), pictures(5, name=what), LAYERS, config)
        for name, what in (("a", "x"), ("b", "y"))
    }
    others = {
        feature_key(ToyEncoder(weights="w2"), pictures(5), LAYERS, config),
        feature_key(ToyEncoder(image_size=(32, 32)), pictures(5), LAYERS, config),
        feature_key(ToyEncoder(), pictures(6), LAYERS, config),
        feature_key(ToyEncoder(), pictures(5), [0], config),
        feature_key(ToyEncoder(), pictures(5), LAYERS, StoreConfig(folder=tmp_path, dtype="float32")),
    }
    assert len(same) == 1 and len(others | same) == 6


class StopError(Exception):
    """What interrupts a test's run."""


@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(at: int, tmp_path: Path) -> None:
    def stop(seen: int) -> None:
        if seen >= at:
            raise StopError

    shown = pictures(11, broken=(2, 9))
    whole, resumed = (StoreConfig(folder=tmp_path / name, chunk=4) for name in ("whole", "resumed"))
    extract(ToyEncoder(), shown, LAYERS, whole)
    with pytest.raises(StopError):
        extract(ToyEncoder(before=stop), shown, LAYERS, resumed)
    after = ToyEncoder()
    extract(after, shown, LAYERS, resumed)
    assert after.seen == 9 - at and contents(tmp_path / "whole") == contents(tmp_path / "resumed")


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path, root: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from perception_encoder.layer_analysis.store import StoreConfig, extract
from tests.layer_analysis.toys import ToyEncoder, pictures
kill = lambda seen: os.kill(os.getpid(), signal.SIGKILL) if seen >= 8 else None
config = StoreConfig(folder=Path({str(tmp_path / "killed")!r}), chunk=4)
extract(ToyEncoder(before=kill), pictures(11), {LAYERS}, config)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, timeout=200)
    assert done.returncode == -9
    after = ToyEncoder()
    extract(after, pictures(11), LAYERS, StoreConfig(folder=tmp_path / "killed", chunk=4))
    extract(ToyEncoder(), pictures(11), LAYERS, StoreConfig(folder=tmp_path / "whole", chunk=4))
    assert after.seen == 3 and contents(tmp_path / "whole") == contents(tmp_path / "killed")


def test_a_chunk_is_as_large_as_its_bytes_allow() -> None:
    large = ToyEncoder(patch_size=14, width=1536)  # as PE-Core-G14-448, a picture 315 MB
    assert chunk_size(large, (448, 448), range(50)) == 6
    assert chunk_size(large, (448, 448), range(50), most=4) == 4
    assert chunk_size(large, (448, 448), [49]) == store.CHUNK
    assert chunk_size(large, (1792, 1792), range(50)) == 1


@pytest.mark.parametrize("at", [4, 8])
def test_a_run_in_chunks_of_bytes_goes_on_to_the_same_batches(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BYTES", 4 * (4 * 16 * 3 * len(LAYERS)) + 100)
    shown, begun = pictures(11), []

    def stop(seen: int) -> None:
        if seen >= at:
            raise StopError
        begun.append(seen)

    extract(ToyEncoder(before=lambda seen: begun.append(seen)), shown, LAYERS, StoreConfig(folder=tmp_path / "whole"))
    assert begun == [0, 4, 8]
    begun.clear()
    resumed = StoreConfig(folder=tmp_path / "resumed")
    with pytest.raises(StopError):
        extract(ToyEncoder(before=stop), shown, LAYERS, resumed)
    extract(ToyEncoder(before=lambda seen: begun.append(at + seen)), shown, LAYERS, resumed)
    assert begun == [0, 4, 8] and contents(tmp_path / "whole") == contents(tmp_path / "resumed")


def test_a_set_that_was_begun_in_other_chunks_is_gone_on_with(tmp_path: Path) -> None:
    def stop(seen: int) -> None:
        if seen >= 5:
            raise StopError

    whole, begun = (StoreConfig(folder=tmp_path / name, chunk=4) for name in ("whole", "begun"))
    extract(ToyEncoder(), pictures(11), LAYERS, whole)
    with pytest.raises(StopError):
        extract(ToyEncoder(before=stop), pictures(11), LAYERS, StoreConfig(folder=tmp_path / "begun", chunk=5))
    after = ToyEncoder()
    extract(after, pictures(11), LAYERS, begun)
    assert after.seen == 6 and contents(tmp_path / "whole") == contents(tmp_path / "begun")


def test_features_that_are_not_finite_or_too_large_are_errors(tmp_path: Path) -> None:
    config = StoreConfig(folder=tmp_path)
    with pytest.raises(ModelError, match="toy gives NaN or infinity at layer 0, for pictures of greys"):
        extract(ToyEncoder(scale=float("nan")), pictures(3), LAYERS, config)
    with pytest.raises(ModelError, match="too large for float16; keep features as float32"):
        extract(ToyEncoder(scale=1e6), pictures(3), LAYERS, config)
    extract(ToyEncoder(scale=1e6), pictures(3), LAYERS, StoreConfig(folder=tmp_path, dtype="float32"))


def test_sets_without_pictures(tmp_path: Path) -> None:
    config = StoreConfig(folder=tmp_path)
    with pytest.raises(DataError, match="greys: there are no pictures"):
        extract(ToyEncoder(), pictures(0), LAYERS, config)
    stored = extract(ToyEncoder(), pictures(2, broken=(0, 1)), LAYERS, config)
    assert len(stored.read(0).tokens) == 0 and len(stored.failures) == 2


def test_what_features_will_take(tmp_path: Path) -> None:
    config, shown = StoreConfig(folder=tmp_path / "none yet"), pictures(5)
    wide = replace(shown, image_size=(8, 24))
    each = 2 * len(LAYERS) * 5 * 3  # bytes of a token of every layer and picture
    assert missing_bytes(ToyEncoder(), [shown, shown, wide], LAYERS, config) == each * (1 + 16 + 1 + 2 * 6)
    extract(ToyEncoder(), shown, LAYERS, config)
    assert missing_bytes(ToyEncoder(), [shown, wide], LAYERS, config) == each * (1 + 2 * 6)
    assert (show_bytes(44_200_000_000), show_bytes(1_500_000)) == ("44.2 GB", "1.5 MB")


def test_a_full_disk_and_damaged_files_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = StoreConfig(folder=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(store, "SPARE", 1 << 62)
        with pytest.raises(OutputError, match="MB for features and the disk has"):
            extract(ToyEncoder(), pictures(3), LAYERS, config)
    stored = extract(ToyEncoder(), pictures(3), LAYERS, config)
    (stored.folder / "layer_02.npy").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"layer_02\.npy is missing or damaged"):
        stored.read(2)
    (stored.folder / "progress.json").write_text("{")
    with pytest.raises(DataError, match=r"progress\.json is damaged"):
        extract(ToyEncoder(), pictures(3), LAYERS, config)
    with pytest.raises(ConfigError, match="float16 or float32, not as 'int8'"):
        StoreConfig(folder=tmp_path, dtype="int8")
