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
from perception_encoder.runtime.openvino_towers import FallbackWarning
from perception_encoder.runtime.program import Program
from tests.inference import test_any_encoder
from tests.inference.test_any_encoder import OF_TEXTS, TEXTS, librarys_own, name_of, opened
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
BOTH = ["open_clip", "hf-CLIP", "hf-Siglip", "st-CLIP", "st-Siglip"]
TOWERS = {"timm": {"image"}, **{kind: {"image", "text"} for kind in BOTH}}
TOWERS |= {kind: {"text"} for kind in ["hf-Siglip2", "st-Siglip2", "st-vlm", "st-texts", "st-bert", "st-gemma2"]}
"""The towers of each kind that OpenVINO computes; SigLIP 2 of NaFlex and Qwen3-VL take images of any size."""


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.usefixtures("compiling")
def test_openvino_gives_the_librarys_vectors(
    kind: str,
    saved: Callable[[str], Path],
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name, images = name_of(kind, saved(kind)), [] if kind in OF_TEXTS else opened(photos)
    found, texts, _ = librarys_own(kind, saved(kind), images, LENGTHS)
    left = bool(images) and "image" not in TOWERS[kind]
    caplog.set_level("INFO", "perception_encoder")
    for _ in range(2):  # converted, and from the cache
        caplog.clear()
        encoder = pe.load(name)
        assert (encoder.runtime.name, encoder.runtime.precision) == ("torch" if left else "openvino", "float32")
        if images:
            np.testing.assert_allclose(encoder.encode_images(images), found, atol=1e-5)
        if kind != "timm":
            for part in (slice(0, 5), slice(3, 4), slice(0, 2)):  # whatever they are padded to
                if "st-Siglip" in kind:  # of the library itself, which pads to the longest without a mask
                    _, asked, _ = librarys_own(kind, saved(kind), [], LENGTHS[part])
                else:
                    asked = texts[part]
                np.testing.assert_allclose(encoder.encode_texts(LENGTHS[part]), asked, atol=1e-5)
        assert sum("its images differ in size, so torch" in line for line in caplog.messages) == left
        about = encoder.describe(encoder.feature())
        assert (about["runtime"], about.get("texts")) == (
            "torch" if left else "openvino",
            None if kind == "timm" else "openvino float32",
        )
        monkeypatch.setattr(convert, "convert_tower", None)
    towers = {(entry.model, entry.values["identity"]["tower"]) for entry in cache.entries()}
    assert towers == {(encoder.name, tower) for tower in TOWERS[kind]}
    assert encoder.width(encoder.feature()) == (found if images else texts).shape[1]


@pytest.mark.parametrize("excluded", [False, True], ids=["prompts", "router"])
@pytest.mark.usefixtures("compiling")
def test_prompts_parts_and_lengths_of_vectors_keep_their_meaning(
    excluded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`router`: a part for each role, and prompts whose tokens are not pooled."""
    from sentence_transformers import SentenceTransformer

    save = embedders.save_sentence_roles if excluded else embedders.save_sentence_texts
    directory = save(tmp_path / "model")
    config = directory / "config_sentence_transformers.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"truncate_dim": 20}))
    model, encoder = SentenceTransformer(str(directory), device="cpu"), pe.load(f"st:{directory}")
    monkeypatch.setattr("perception_encoder.runtime.library_towers.MAX_TOKENS", 30)  # in several parts
    for method in ("encode", "encode_query", "encode_document"):
        for cut, short in ((None, encoder), (7, encoder.cut(7))):
            wanted = getattr(model, method)(LENGTHS, normalize_embeddings=True, truncate_dim=cut)
            np.testing.assert_allclose(getattr(short, method)(LENGTHS), wanted, atol=1e-5, err_msg=method)
    assert encoder.dimension == 20
    assert {entry.values["identity"]["tower"] for entry in cache.entries()} == (
        {"text", "query", "document"} if excluded else {"text"}
    )


@pytest.mark.filterwarnings("ignore::perception_encoder.runtime.openvino_towers.FallbackWarning")
@pytest.mark.parametrize("kind", ["hf-CLIP", "st-Siglip", "st-texts", "st-vlm"])
@pytest.mark.usefixtures("compiling")
def test_text_towers_are_calibrated_for_int8(
    kind: str, saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, asked, _ = librarys_own(kind, saved(kind), [Image.new("RGB", (9, 9))] if kind == "hf-CLIP" else [], LENGTHS)
    encoder = pe.load(name_of(kind, saved(kind)), precision="int8")
    samples, quantize = [], convert.quantize

    def quantized(model: Any, method: Any, inputs: Any = ()) -> Any:
        samples.append((method, [sample.shape for sample in inputs]))
        return quantize(model, method, inputs)

    if kind == "hf-CLIP" or kind == "st-Siglip":
        monkeypatch.setattr(convert, "quantize", quantized)
    assert (encoder.encode_texts(LENGTHS) * asked).sum(axis=1).min() >= 0.998
    (entry,) = [entry for entry in cache.entries() if entry.values["identity"]["tower"] == "text"]
    assert entry.values.get("cosine", 1) >= 0.999 and "minimum cosine to float32" in entry.values["check"]
    assert encoder.describe(encoder.feature())["texts"] == f"openvino {entry.precision}"
    if samples:
        method, shapes = samples[0]
        assert method == "static" and len(shapes) == 96 and len({shape[-1] for shape in shapes}) > 8


@pytest.mark.filterwarnings("ignore::perception_encoder.runtime.openvino_towers.FallbackWarning")
@pytest.mark.parametrize("kind", ["timm", *BOTH])
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
    if kind in ("open_clip", "hf-Siglip", "st-Siglip") and "vnni" in cpu_flags():  # the others are at the limit
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
        pytest.warns(FallbackWarning, match="timm:timm is computed with torch"),
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


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [("hf-CLIP", lambda inputs: len(inputs) == 1), ("st-gemma2", lambda inputs: inputs.shape[-1] > 32)],
    ids=["batches", "lengths"],
)
@pytest.mark.usefixtures("compiling")
def test_a_conversion_that_is_right_for_one_length_only_is_not_used(
    kind: str, wrong: Callable[[np.ndarray], bool], saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = name_of(kind, saved(kind))
    _, asked, _ = librarys_own(kind, saved(kind), [Image.new("RGB", (9, 9))] if kind == "hf-CLIP" else [], TEXTS)
    run = Program.__call__
    monkeypatch.setattr(
        Program, "__call__", lambda self, inputs: run(self, inputs) * (1 + wrong(inputs)) ** np.arange(asked.shape[1])
    )
    with pytest.warns(FallbackWarning, match="OpenVINO differs from torch by"):
        np.testing.assert_allclose(pe.load(name).encode_texts(TEXTS), asked, atol=1e-5)


@pytest.mark.usefixtures("compiling")
def test_models_of_the_same_weights_and_other_pooling_are_converted_apart(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    other = shutil.copytree(saved("st-bert"), tmp_path / "other")
    config = other / "1_Pooling" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"pooling_mode": "cls"}))
    for directory in (saved("st-bert"), other):
        _, asked, _ = librarys_own("st-bert", directory, [], LENGTHS)
        np.testing.assert_allclose(pe.load(f"st:{directory}").encode_texts(LENGTHS), asked, atol=1e-5)
    assert len(cache.entries()) == 2


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
