"""int8: the same calibration everywhere, a check that bad towers fail, and vectors close to float32's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from perception_encoder import Encoder, create_model, embed, load, open_index
from perception_encoder.errors import ModelError, OutputError
from perception_encoder.evaluation.embeddings import load_variants
from perception_encoder.inference.collection import read_collection
from perception_encoder.preprocess.tokenizer import END, START, Tokenizer, trim
from perception_encoder.runtime import choice, convert, quantization
from perception_encoder.runtime.machine import cpu_flags
from perception_encoder.runtime.openvino_towers import FallbackWarning
from perception_encoder.runtime.program import Program
from perception_encoder.runtime.quantization import (
    Verdict,
    calibration_ids,
    calibration_pixels,
    check,
    check_ids,
    check_images,
    procedural_images,
)
from perception_encoder.search.storage import cluster
from perception_encoder.search.storage.store import IndexStore
from perception_encoder.serving import api
from perception_encoder.vectors import unit_rows
from tests.runtime.test_choice import INT8

DIGESTS, IDS = ["2c5c4a7cb613af7d", "d852b1f5a7c03529"], "a2dc1bb217b4bbdb"


def test_calibration_has_the_same_bits_everywhere() -> None:
    digests = [
        hashlib.sha256(images.tobytes()).hexdigest()[:16]
        for images in (calibration_pixels(96, 128), check_images(64, 64))
    ]
    assert digests == DIGESTS
    assert calibration_pixels(96, 128).shape == (36, 3, 96, 128)
    assert len(np.unique(check_ids(32), axis=0)) == 64
    ids = calibration_ids(32)
    assert hashlib.sha256(b"".join(row.tobytes() for row in ids)).hexdigest()[:16] == IDS
    assert {len(row) for row in ids} == set(range(3, 33)), "texts of all lengths"
    assert all(row[0] == START and row[-1] == END for row in ids)


def test_a_check_wants_close_vectors_and_the_same_neighbours() -> None:
    vectors = unit_rows(np.random.default_rng(0).normal(size=(16, 64))).astype(np.float32)
    assert check(vectors * 3, vectors) == Verdict(pytest.approx(1), 1) and check(vectors, vectors).passed
    noise = unit_rows(np.random.default_rng(1).normal(size=(16, 64)))
    far = check(vectors + 0.1 * noise, vectors)
    assert far.cosine < 0.999 and not far.passed
    one_off = vectors.copy()
    one_off[3] = vectors[4]
    assert check(one_off, vectors).cosine < 0.9
    assert not Verdict(0.9995, 0.5).passed and not Verdict(0.99, 1).passed


@pytest.fixture
def int8_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nncf")
    monkeypatch.setattr(choice, "measured_speeds", lambda int8=False, again=False: INT8)


def photos(count: int) -> np.ndarray:
    return procedural_images(count, 128, 128, seed=7)


@pytest.mark.usefixtures("int8_is_fast")
def test_the_builtin_model_keeps_its_vectors_in_int8() -> None:
    reference, encoder = load("builtin", "cpu", runtime="torch", precision="float32"), load("builtin", precision="int8")
    images, feature = photos(24), reference.feature()
    cosines = (encoder.embed_pixels(images, feature) * reference.embed_pixels(images, feature)).sum(axis=1)
    assert cosines.min() >= 0.999
    texts = ["a red mug", "two dogs", "a mountain in snow, seen from the valley"]
    assert (encoder.encode_texts(texts) * reference.encode_texts(texts)).sum(axis=1).min() >= 0.999
    assert encoder.runtime.precision == "int8"
    tokens = reference.feature(2, "tokens")
    found, expected = encoder.embed_pixels(images[:2], tokens), reference.embed_pixels(images[:2], tokens)
    assert np.abs(found - expected).max() < 0.05, "tokens are not quantised"


@pytest.mark.skipif("vnni" not in cpu_flags(), reason="without VNNI, products in int8 may saturate")
def test_static_quantisation_passes_the_check(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    source = convert.tower_of(create_model("builtin", pretrained=True).eval(), "image")
    tower = quantization.quantize(convert.to_openvino(source), "static", calibration_pixels(128, 128))
    openvino.save_model(tower, tmp_path / "model.xml")
    images = photos(24)
    found = Program(openvino.Core(), tmp_path / "model.xml", "int8", (1, 3, 128, 128))(images)
    verdict = check(found, source.run(images))
    assert verdict.cosine >= 0.9997 and verdict.passed


def drawn_photos(side: int) -> np.ndarray:
    """Ellipses and rectangles of strong colours on white and on black, as goods and signs are photographed."""
    generator, drawn = np.random.default_rng(3), []
    for number in range(32):
        image = Image.new("RGB", (side, side), ("black", "white")[number % 2])
        for shape in (ImageDraw.Draw(image).ellipse, ImageDraw.Draw(image).rectangle) * 2:
            left, top, width, height = (int(value) for value in generator.integers(4, side // 2, 4) * (2, 2, 1, 1))
            shape((left, top, left + width, top + height), fill=tuple(map(int, generator.integers(0, 256, 3))))
        drawn.append(np.asarray(image).transpose(2, 0, 1))
    return np.stack(drawn)


@pytest.mark.skipif("vnni" not in cpu_flags(), reason="without VNNI, products in int8 may saturate")
def test_ranges_and_the_check_cover_strong_contrasts(tmp_path: Path) -> None:
    """On ranges of clouds alone, a small CLIP has a cosine of 0.999 on such images, and the check must say so."""
    openvino, open_clip = pytest.importorskip("openvino"), pytest.importorskip("open_clip")
    pytest.importorskip("nncf")
    vision = {"image_size": 64, "patch_size": 8, "width": 64, "layers": 4, "head_width": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = open_clip.CLIP(32, vision, {"context_length": 8, "vocab_size": 64, "width": 16, "layers": 1}).visual
    module = torch.nn.Sequential(convert.ImageTower(torch.nn.Identity(), None), tower.eval())  # type: ignore[arg-type]
    checks = check_images(64, 64)
    source = convert.Source("image", module, checks[:2], (-1, 3, 64, 64), lambda: checks, lambda: checks)
    exact, inputs, verdicts = convert.to_openvino(source), (drawn_photos(64), checks), []
    for name, samples in {"ours": calibration_pixels(64, 64), "clouds": procedural_images(32, 64, 64, 2504)}.items():
        openvino.save_model(quantization.quantize(exact.clone(), "static", samples), tmp_path / f"{name}.xml")
        program = Program(openvino.Core(), tmp_path / f"{name}.xml", "int8", (1, 3, 64, 64))
        verdicts += [check(program(images), source.run(images)) for images in inputs]
    ours, our_check, clouds, check_of_clouds = verdicts
    assert ours.cosine > 0.9997 and our_check.passed
    assert clouds.cosine < 0.9995 and check_of_clouds.cosine < clouds.cosine and not check_of_clouds.passed


@pytest.mark.skipif("vnni" not in cpu_flags(), reason="without VNNI, products in int8 may saturate")
def test_words_beyond_the_calibrated_ranges_keep_their_embeddings(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    source = convert.tower_of(create_model("builtin", pretrained=True).eval(), "text")
    tower = quantization.quantize(convert.to_openvino(source), "static", check_ids(32))
    openvino.save_model(tower, tmp_path / "model.xml")
    ids = trim(Tokenizer(32).ids("a large family poses for a picture on a tennis court"))
    found, expected = Program(openvino.Core(), tmp_path / "model.xml", "int8")(ids), source.run(ids)
    assert (unit_rows(found) * unit_rows(expected)).sum() >= 0.9995


@pytest.mark.usefixtures("int8_is_fast")
def test_a_tower_that_fails_with_ranges_has_int8_weights_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, quantize = [], convert.quantize

    def quantized(model: object, method: str, samples: object) -> object:
        tried.append(method)
        return quantize(model, method, samples)  # type: ignore[arg-type]

    monkeypatch.setattr(convert, "quantize", quantized)
    monkeypatch.setattr(convert, "check", lambda found, expected: Verdict(0.95 if tried == ["static"] else 0.9995, 1))
    monkeypatch.setattr("perception_encoder.runtime.cache.cache_directory", lambda name: tmp_path / name)
    reference, encoder = load("builtin", "cpu", runtime="torch", precision="float32"), load("builtin", precision="int8")
    assert tried == ["static", "weights"] and encoder.runtime.precision == "int8"
    images, feature = photos(3), reference.feature()
    cosines = (encoder.embed_pixels(images, feature) * reference.embed_pixels(images, feature)).sum(axis=1)
    assert cosines.min() >= 0.999


@pytest.mark.usefixtures("int8_is_fast")
def test_a_tower_that_fails_its_check_stays_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "check", lambda found, expected: Verdict(0.95, 0.5))
    monkeypatch.setattr("perception_encoder.runtime.cache.cache_directory", lambda name: tmp_path / name)
    reference = load("builtin", "cpu", runtime="torch", precision="float32")
    images, feature = photos(3), reference.feature()
    for _ in range(2):  # converted, and from the cache
        with pytest.warns(FallbackWarning, match="its image tower stays in bfloat16"):
            encoder = load("builtin", precision="int8")
        assert encoder.runtime.precision == "bfloat16"
    found = encoder.embed_pixels(images, feature)
    assert np.abs(found - reference.embed_pixels(images, feature)).max() < 5e-3


@pytest.mark.usefixtures("int8_is_fast")
def test_an_index_in_int8_answers_in_any_precision(tmp_path: Path) -> None:
    for number, pixels in enumerate(photos(6)):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / f"{number}.png")
    made = open_index(tmp_path, "builtin", precision="int8")
    made.update()
    assert {name: made._open()[0].settings[name] for name in ("runtime", "precision")} == {
        "runtime": "openvino",
        "precision": "int8",
    }
    query = tmp_path / "3.png"
    scores = {}
    for precision in ("int8", "bfloat16", "float32"):
        hits = open_index(tmp_path, precision=precision).search(str(query), top=5)  # type: ignore[arg-type]
        scores[precision] = {hit.path: hit.score for hit in hits}
    for precision in ("bfloat16", "float32"):
        assert scores[precision] == pytest.approx(scores["int8"], abs=0.02)


@pytest.mark.usefixtures("int8_is_fast")
def test_tokens_of_layers_are_recorded_as_what_they_are_computed_in() -> None:
    encoder = load("builtin", precision="int8")
    for pool, precision in (("attn", "int8"), ("mean", "bfloat16"), ("tokens", "bfloat16")):
        assert encoder.describe(encoder.feature(-1, pool))["precision"] == precision
        assert encoder.variant(pool=pool).about["dtype"] == precision
    assert encoder.about["dtype"] == "int8"


@pytest.fixture
def no_image_tower(int8_is_fast: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """OpenVINO takes texts only. Returns a directory with an image and a table of texts."""
    convert_tower = convert.convert_tower

    def fail(core: Any, source: convert.Source, *arguments: Any) -> dict[str, Any]:
        if source.tower == "image":
            raise ModelError("no such operation")
        return convert_tower(core, source, *arguments)

    monkeypatch.setattr(convert, "convert_tower", fail)
    monkeypatch.setattr("perception_encoder.runtime.cache.cache_directory", lambda name: tmp_path / name)
    (tmp_path / "photos").mkdir()
    Image.fromarray(photos(1)[0].transpose(1, 2, 0)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "texts.csv").write_text("text\na red mug\n", encoding="utf-8")
    return tmp_path / "photos"


def in_openvino(precision: str) -> Encoder:
    return load("builtin", "cpu", runtime="openvino", precision=precision)  # type: ignore[arg-type]


def indexed(encoder: Encoder, directory: Path) -> dict[str, Any]:
    index = open_index(directory, encoder)
    index.update()
    return index._open()[0].settings


def embedded(encoder: Encoder, directory: Path) -> dict[str, Any]:
    embed(directory / "a.png", directory / "a.parquet", model=encoder)
    found = read_collection(directory / "a.parquet")
    assert found is not None
    return found[1]


def evaluated(encoder: Encoder, directory: Path) -> dict[str, Any]:
    about = load_variants(encoder)[1]
    return about | {"precision": about["dtype"]}


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("recorded", [indexed, embedded, evaluated])
def test_what_records_names_torch_where_it_had_to_compute(
    recorded: Callable[[Encoder, Path], dict[str, Any]], precision: str, no_image_tower: Path
) -> None:
    with pytest.warns(FallbackWarning, match="builtin is computed with torch"):
        found = recorded(in_openvino(precision), no_image_tower)
    assert (found["runtime"], found["precision"]) == ("torch", "float32")


def test_answers_of_the_server_name_what_computed_them(no_image_tower: Path) -> None:
    with pytest.warns(FallbackWarning, match="builtin is computed with torch"):
        encoder = in_openvino("bfloat16")
        encoder.embed_pixels(photos(1), encoder.feature())
    encoder.encode_texts(["a mug"])
    answers = [
        json.loads(api._encode({}, encoder, [(kind, "x")], encoder.feature()))  # type: ignore[list-item]
        for kind in ("image", "text")
    ]
    assert [(one["runtime"], one["precision"]) for one in answers] == [("torch", "float32"), ("openvino", "bfloat16")]


def test_workers_of_a_cluster_compute_with_what_the_index_records(
    no_image_tower: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.warns(FallbackWarning, match="builtin is computed with torch"):
        encoder = in_openvino("float32")
        open_index(no_image_tower, encoder).update()
    jobs: list[Any] = []

    def stream(source: object, *arguments: Any) -> list[Any]:
        if not arguments:
            return [("cpu", 2)]  # the workers
        jobs.append(arguments[0].model)
        return []

    monkeypatch.setattr(cluster, "on_cluster", lambda address: nullcontext(stream))
    with cluster.reading_on_cluster("") as read:
        assert list(read(IndexStore.open(no_image_tower), encoder, set(), [])) == []
    assert [(job.spec.runtime, job.spec.precision) for job in jobs] == [("torch", "float32")]


def test_texts_alone_need_no_image_tower(no_image_tower: Path) -> None:
    encoder = in_openvino("float32")
    embed(no_image_tower / "texts.csv", no_image_tower / "texts.parquet", model=encoder)  # a warning would be an error
    assert encoder.runtime.used(None) == encoder.runtime.used(None, texts=True) == ("openvino", "float32")


def test_a_file_that_exists_is_refused_before_a_conversion(no_image_tower: Path) -> None:
    (no_image_tower / "a.parquet").touch()
    with pytest.raises(OutputError, match="exists"):
        embed(no_image_tower / "a.png", no_image_tower / "a.parquet", model=in_openvino("float32"))


def test_mtebs_revision_stays_when_torch_has_to_compute(no_image_tower: Path) -> None:
    encoder = in_openvino("bfloat16")
    before = encoder.as_sentence_transformer().mteb_model_meta.revision
    with pytest.warns(FallbackWarning, match="builtin is computed with torch"):
        encoder.embed_pixels(photos(1), encoder.feature())
    assert encoder.as_sentence_transformer().mteb_model_meta.revision == before
