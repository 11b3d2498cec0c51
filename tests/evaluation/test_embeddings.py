"""Images are encoded once, in order, under the transforms of a model, or at a layer of a model of any library."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.errors import ConfigError
from perception_encoder.evaluation import embeddings as module
from perception_encoder.evaluation.embeddings import Embeddings, embeddings_of, load_variants
from perception_encoder.formats.media_directory import Clip
from perception_encoder.inference.load import load_layers
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.preprocess.image import open_image
from perception_encoder.preprocess.video import read_frames
from tests.clips import clip
from tests.evaluation.colours import colour_encoder, image_bytes
from tests.models.external.samples import save_transformer

COLOURS = ("red", "green", "blue", "red", "white")


def task(broken: tuple[int, ...] = ()) -> LabelledImages:
    samples = tuple(b"no image" if i in broken else image_bytes(colour) for i, colour in enumerate(COLOURS))
    return LabelledImages("colours", tuple("abcde"), samples, COLOURS)


def test_vectors_are_in_the_images_order(monkeypatch) -> None:
    whole = Embeddings(colour_encoder()).images(task())
    monkeypatch.setattr(module, "CHUNK", 2)
    chunked = Embeddings(colour_encoder()).images(task())
    np.testing.assert_array_equal(whole.vectors, chunked.vectors)
    assert whole.vectors.argmax(axis=1).tolist()[:4] == [0, 1, 2, 0]
    assert whole.labels == chunked.labels == COLOURS
    assert whole.targets(["blue", "green", "red", "white"]).tolist() == [2, 1, 0, 2, 3]
    assert whole.failures == ()


def test_the_same_images_take_other_labels() -> None:
    encoder = colour_encoder()
    cache = Embeddings(encoder)
    fine = task(broken=(1,))
    features = cache.images(fine)
    coarse = replace(fine, name="colours/coarse", labels=("warm", "?", "cold", "warm", "none"))
    assert cache.images(coarse).labels == ("warm", "cold", "warm", "none")
    assert cache.images(coarse).vectors is features.vectors and encoder.towers.image_count == 4
    assert cache.images(replace(fine, trim=1)).vectors is not features.vectors
    assert (cache.count, [failure.source for failure in cache.failures]) == (10, ["b", "b"])


def test_a_video_is_the_mean_of_its_frames_made_unit(tmp_path) -> None:
    (tmp_path / "v.mp4").write_bytes(clip(30))
    sources = (image_bytes("red"), tmp_path / "v.mp4", Clip(tmp_path / "v.mp4", 0.4, 0.8), tmp_path / "none.mp4")
    clips = LabelledImages("clips", tuple("abcd"), sources, tuple("wxyz"))
    features = Embeddings(colour_encoder()).images(clips, frames=4)
    for row, (start, end) in ((1, (None, None)), (2, (0.4, 0.8))):
        images = read_frames(tmp_path / "v.mp4", frames=4, start=start, end=end).images
        mean = colour_encoder().encode_images(images, normalize=False).mean(axis=0)
        np.testing.assert_allclose(features.vectors[row], mean / np.linalg.norm(mean), rtol=1e-5)
    assert features.vectors[0].tolist() == colour_encoder().encode_images([open_image(image_bytes("red"))])[0].tolist()
    assert np.abs(features.vectors[1] - features.vectors[2]).max() > 0
    assert [(failure.source, failure.reason) for failure in features.failures] == [("d", "no such file")]


def test_a_border_is_cut_off() -> None:
    framed = Image.new("RGB", (24, 16), "red")
    framed.paste((0, 0, 255), (2, 2, 22, 14))
    stream = io.BytesIO()
    framed.save(stream, "PNG")
    objects = LabelledImages("objects", ("a", "b"), (stream.getvalue(), image_bytes("red")), ("x", "y"), trim=2)
    np.testing.assert_allclose(Embeddings(colour_encoder()).images(objects).vectors[0], [0, 0, 1])
    features = Embeddings(colour_encoder()).images(replace(objects, images=(image_bytes("red"), small()), trim=2))
    assert features.failures[0].reason == "is too small to crop 2 pixels from each side"


def small() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (24, 4)).save(stream, "PNG")
    return stream.getvalue()


def test_the_transforms_of_a_model_share_the_embeddings_of_texts() -> None:
    both = {"squash": colour_encoder(), "crop": colour_encoder()}
    cached = embeddings_of(both)
    for source in cached.values():
        for _ in range(2):
            assert source.texts(["red", "a blue cup"]).argmax(axis=1).tolist() == [0, 2]
    assert (both["squash"].towers.text_count, both["crop"].towers.text_count) == (2, 0)


def test_crop_sees_the_middle_and_squash_all(tmp_path: Path) -> None:
    weights = tmp_path / "nano.safetensors"
    write_checkpoint(create_model("builtin"), weights)
    encoders, about = load_variants(str(weights), texts=True)
    wide = torch.rand(60, 180, 3, generator=torch.Generator().manual_seed(0)).mul(255).byte().numpy()
    squash, crop = (encoders[name].encode_images([wide]) for name in ("squash", "crop"))
    assert not np.allclose(squash, crop, atol=1e-3)
    np.testing.assert_allclose(crop, encoders["squash"].encode_images([wide[:, 60:120]]), atol=0.02)
    assert about["device"] in ("cpu", "cuda") and len(about["weights"]) == 16


@pytest.fixture
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)) for _ in range(35)]


def test_a_model_of_transformers_at_a_layer(tmp_path: Path, images: list[Image.Image]) -> None:
    save_transformer("ViT", tmp_path)
    name = f"hf:{tmp_path}"
    for layer, pool, taken in (
        (None, None, {"layer": "2", "pool": "mean"}),
        (-2, "cls", {"layer": "1", "pool": "cls"}),
    ):
        encoders, about = load_variants(name, "squash", layer, pool)
        at = int(taken["layer"])
        tokens = load_layers(name, final_norm=True).encode_layers(images, [at])[at]
        wanted = tokens.patches.mean(axis=(1, 2)) if taken["pool"] == "mean" else tokens.prefix[:, 0]
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        vectors = encoders["squash"].encode_images(images)
        assert vectors.dtype == np.float32 and encoders["squash"].name == f"hf:{tmp_path.name}"
        np.testing.assert_allclose(vectors, wanted, atol=1e-2)
        assert about.items() >= taken.items() and len(about["weights"]) == 16 and "torch" in about


def test_a_model_of_timm_at_a_layer(images: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **rest: create(name, **rest))
    as_it_is, _ = load_variants("timm:test_vit", "squash,crop", None, None)
    assert list(as_it_is) == ["squash", "crop"]  # its own output and transforms
    for name in ("timm:test_vit", "random:timm:test_vit"):
        encoders, about = load_variants(name, "squash", 1, None)
        assert encoders["squash"].encode_images(images[:2]).shape == (2, 64) and about["layer"] == "1"
    with pytest.raises(ConfigError, match="takes squashed images only"):
        load_variants("timm:test_vit", "crop", 1, None)
    with pytest.raises(ConfigError, match="layer 6 does not exist"):
        load_variants("timm:test_vit", "squash", 6, None)
    with pytest.raises(ConfigError, match="no pool 'attn' after layer 5"):
        load_variants("timm:test_vit", "squash", None, "attn")


@pytest.mark.parametrize("name", ["random:timm:test_vit", "random:builtin"])
def test_a_vision_tower_has_no_texts(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is a vision tower without a text tower"):
        load_variants(name, "squash", texts=True)
