"""Other libraries' models in OpenVINO: the library's vectors, converted once, and torch where OpenVINO fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import perception_encoder as pe
from perception_encoder.inference.load import as_encoder
from perception_encoder.runtime import cache, choice, convert
from perception_encoder.runtime.machine import cpu_flags
from perception_encoder.runtime.openvino_runtime import FallbackWarning
from perception_encoder.runtime.program import Program
from tests.inference import test_any_encoder
from tests.inference.test_any_encoder import COMPILED, TEXTS, librarys_own, name_of, opened
from tests.models.external import embedders
from tests.runtime.test_choice import INT8, SPEEDS

saved, photos, config = test_any_encoder.saved, test_any_encoder.photos, test_any_encoder.config


@pytest.fixture
def compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO where it is the fastest and int8 is fast, with an empty cache."""
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PE_RUNTIME", raising=False)
    monkeypatch.setattr(choice, "measured_speeds", lambda int8=False, again=False: INT8 if int8 else SPEEDS)


LENGTHS = [*TEXTS, "a", "a photo of the red dog on a table in the street"]


@pytest.mark.parametrize("kind", COMPILED)
@pytest.mark.usefixtures("compiling")
def test_openvino_gives_the_librarys_vectors(
    kind: str, saved: Callable[[str], Path], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, images = name_of(kind, saved(kind)), opened(photos)
    found, asked, _ = librarys_own(kind, saved(kind), images, LENGTHS)
    for _ in range(2):  # converted, and from the cache
        encoder = pe.load(name)
        assert (encoder.runtime.name, encoder.runtime.precision) == ("openvino", "float32")
        np.testing.assert_allclose(encoder.encode_images(images), found, atol=1e-5)
        if kind != "timm":
            for part in (slice(0, 5), slice(3, 4)):
                np.testing.assert_allclose(encoder.encode_texts(LENGTHS[part]), asked[part], atol=1e-5)
        monkeypatch.setattr(convert, "convert_tower", None)
    towers = {(entry.model, entry.values["identity"]["tower"]) for entry in cache.entries()}
    assert towers == {(encoder.name, tower) for tower in (("image",) if kind == "timm" else ("image", "text"))}
    assert encoder.encode_images(images[:1]).dtype == np.float32 and encoder.width(encoder.feature()) == len(found[0])


@pytest.mark.filterwarnings("ignore::perception_encoder.runtime.openvino_runtime.FallbackWarning")
@pytest.mark.parametrize("kind", COMPILED)
@pytest.mark.usefixtures("compiling", "config")
def test_int8_is_checked_and_becomes_the_default(
    kind: str, saved: Callable[[str], Path], photos: Path, run_pe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PE_DTYPE", raising=False)  # it overrides the stored precision
    name, images = name_of(kind, saved(kind)), opened(photos)
    found, asked, _ = librarys_own(kind, saved(kind), images, LENGTHS)
    run = run_pe("models", "use", name, "--precision", "int8")
    assert run.status == 0, run.stderr
    encoder = as_encoder(None)
    assert encoder.source == name
    assert (encoder.encode_images(images) * found).sum(axis=1).min() >= 0.998
    if kind != "timm":
        assert (encoder.encode_texts(LENGTHS) * asked).sum(axis=1).min() >= 0.998
    assert all(entry.values.get("cosine", 0) >= 0.999 for entry in cache.entries() if entry.precision == "int8")
    if kind in ("open_clip", "hf-Siglip") and "vnni" in cpu_flags():  # the others are at the limit
        assert encoder.runtime.precision == "int8" and [entry.precision for entry in cache.entries()] == ["int8"] * 2


@pytest.mark.usefixtures("compiling")
def test_torch_computes_what_openvino_does_not_take(
    saved: Callable[[str], Path], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: object) -> None:
        raise TypeError("no such operation\nmore")

    name, images = name_of("hf-CLIP", saved("hf-CLIP")), opened(photos)
    found, asked, _ = librarys_own("hf-CLIP", saved("hf-CLIP"), images, TEXTS)
    monkeypatch.setattr(convert, "to_openvino", fail)
    encoder = pe.load(name, runtime="openvino", precision="bfloat16")
    reason = "hf:hf-clip is computed with torch: OpenVINO does not take its {} tower: no such operation$"
    with pytest.warns(FallbackWarning, match=reason.format("image")):
        np.testing.assert_allclose(encoder.encode_images(images), found, atol=1e-5)
    with pytest.warns(FallbackWarning, match=reason.format("text")):
        np.testing.assert_allclose(encoder.encode_texts(TEXTS), asked, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_images(images), found, atol=1e-5)  # and no other note
    monkeypatch.setattr(convert, "convert_tower", None)  # known to fail, so not tried again
    encoder = pe.load(name, runtime="openvino", precision="bfloat16")
    with pytest.warns(FallbackWarning, match=reason.format("image")):
        encoder.encode_images(images)
    assert cache.entries() == []


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
@pytest.mark.usefixtures("compiling")
def test_a_lack_of_memory_is_not_remembered(
    error: Exception, saved: Callable[[str], Path], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: object) -> None:
        raise error

    name = name_of("timm", saved("timm"))
    with (
        monkeypatch.context() as patch,
        pytest.warns(FallbackWarning, match="timm:timm is computed with torch: .*emory"),
    ):
        patch.setattr(convert, "to_openvino", fail)
        pe.load(name).encode_images(opened(photos))
    pe.load(name).encode_images(opened(photos))
    assert [entry.precision for entry in cache.entries()] == ["float32"]


@pytest.mark.usefixtures("compiling")
def test_positions_of_another_image_size_are_resampled_by_the_library(photos: Path, tmp_path: Path) -> None:
    directory = embedders.save_timm(tmp_path / "timm", side=160)
    found, *_ = librarys_own("timm", directory, opened(photos), TEXTS)
    encoder = pe.load(name_of("timm", directory))
    np.testing.assert_allclose(encoder.encode_images(opened(photos)), found, atol=1e-5)
    assert [entry.precision for entry in cache.entries()] == ["float32"]
    assert encoder.model.patch_embed.img_size == (224, 224)  # for layers, at any size


@pytest.mark.usefixtures("compiling")
def test_a_conversion_that_is_right_for_one_length_only_is_not_used(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = name_of("hf-CLIP", saved("hf-CLIP"))
    _, asked, _ = librarys_own("hf-CLIP", saved("hf-CLIP"), [Image.new("RGB", (9, 9))], TEXTS)
    run = Program.__call__
    monkeypatch.setattr(
        Program, "__call__", lambda self, inputs: run(self, inputs) * (1 + (len(inputs) == 1)) ** np.arange(20)
    )
    with pytest.warns(FallbackWarning, match="in float32 OpenVINO differs from torch by"):
        np.testing.assert_allclose(pe.load(name).encode_texts(TEXTS), asked, atol=1e-5)


@pytest.mark.usefixtures("compiling")
def test_models_of_the_same_weights_and_other_heads_are_converted_apart(
    saved: Callable[[str], Path], photos: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(saved("hf-CLIP"), other)
    values = json.loads((other / "config.json").read_text())
    values["vision_config"]["num_attention_heads"] = 4
    (other / "config.json").write_text(json.dumps(values))
    images = opened(photos)
    for directory in (saved("hf-CLIP"), other):
        found, *_ = librarys_own("hf-CLIP", directory, images, TEXTS)
        np.testing.assert_allclose(pe.load(f"hf:{directory}").encode_images(images), found, atol=1e-5)
    moved = shutil.move(other, tmp_path / "moved")
    entries = len(cache.entries())
    pe.load(f"hf:{moved}").encode_images(images)
    assert entries == len(cache.entries()) == 2
