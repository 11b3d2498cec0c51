"""Things to vectors: whatever the input, the row is the model's own output for it, in its place."""

from __future__ import annotations

import copy
import logging
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.errors import (
    ConfigError,
    InputError,
    MediaDecodeError,
    MediaNotFoundError,
    ModelError,
    UrlRefusedError,
)
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load
from perception_encoder.models.checkpoints.weights import create_model, weight_hash
from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.initialization import initialize, torch_generator
from perception_encoder.preprocess.fetch import FetchLimits
from perception_encoder.preprocess.image import image_transform, open_image
from perception_encoder.preprocess.tokenizer import tokenizer
from perception_encoder.preprocess.video import read_frames
from tests.clips import clip

CLOSE = {"rtol": 0, "atol": 2e-6}


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip(40))
    return path


def tensors(encoder: Encoder, images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([image_transform(encoder.model)(image) for image in images])


def test_images_are_encoded_as_the_model_does(encoder: Encoder, image_files: list[Path]) -> None:
    with torch.no_grad():
        expected = encoder.model.encode_image(
            tensors(encoder, [open_image(path) for path in image_files]), True
        ).numpy()
    found = encoder.encode(image_files)
    assert found.dtype == np.float32
    assert found.shape == (20, encoder.dimension)
    np.testing.assert_allclose(found, expected, **CLOSE)


def test_texts_are_encoded_as_the_model_does(encoder: Encoder) -> None:
    texts = ["a red mug on a wooden table in the sun", "cat", "two dogs"]
    with torch.no_grad():
        expected = encoder.model.encode_text(tokenizer(encoder.model)(texts), normalize=True).numpy()
    np.testing.assert_allclose(encoder.encode(texts), expected, **CLOSE)
    np.testing.assert_allclose(encoder.encode_texts(texts), expected, **CLOSE)


@pytest.mark.parametrize("normalize", [True, False])
def test_videos_are_encoded_as_the_model_does(encoder: Encoder, video: Path, normalize: bool) -> None:
    frames = tensors(encoder, read_frames(video, frames=5).images)
    with torch.no_grad():
        expected = encoder.model.encode_video(frames[None], normalize)[0].numpy()
    found = encoder.encode(video, normalize, frames=5)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
    assert np.isclose(np.linalg.norm(found), 1, atol=1e-5) == normalize


def test_tokens_of_a_video_are_those_of_its_frames(encoder: Encoder, video: Path, image_files: list[Path]) -> None:
    found = encoder.encode_videos([video, video], layer=0, pool="tokens", frames=3)
    assert found.shape == (2, 3, 64, 192)
    frames = encoder.encode(read_frames(video, frames=3).images, layer=0, pool="tokens")
    np.testing.assert_allclose(found[0], frames, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-5)
    with pytest.raises(ConfigError, match="not both"):
        encoder.encode([video, image_files[0]], layer=0, pool="tokens")


def test_rows_are_in_input_order_whatever_the_inputs(encoder: Encoder, image_files: list[Path], video: Path) -> None:
    inputs = [
        *("a dog", image_files[0], video, str(image_files[1]), "a much longer text about a dog that barks at a tree"),
        *(Image.open(image_files[2]), image_files[3].read_bytes(), np.asarray(open_image(image_files[4])), "cat"),
        *image_files[5:16],
        *("a horse", np.stack([np.asarray(open_image(path)) for path in image_files[:3]])),
    ]
    together = encoder.encode(inputs)
    assert together.shape == (len(inputs), encoder.dimension)
    for row, value in zip(together, inputs, strict=True):
        alone = encoder.encode(value)
        assert alone.shape == (encoder.dimension,)
        np.testing.assert_allclose(row, alone, **CLOSE)


def test_no_inputs_give_no_rows(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.dimension)
    assert encoder.encode_images([], layer=2).shape == (0, 192)
    assert encoder.encode(iter(())).dtype == np.float32


def test_strings_are_texts_unless_they_are_or_look_like_files(
    encoder: Encoder, image_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(image_files[0].parent)
    np.testing.assert_array_equal(encoder.encode("00.jpg"), encoder.encode(image_files[0]))
    np.testing.assert_allclose(encoder.encode_texts("00.jpg"), encoder.encode_texts(["00.jpg", "b"])[0], **CLOSE)
    assert not np.allclose(encoder.encode_texts("00.jpg"), encoder.encode("00.jpg"), atol=0.1)
    with pytest.raises(MediaNotFoundError, match=r"gone\.jpg"):
        encoder.encode("gone.jpg")
    with pytest.raises(MediaNotFoundError, match="a dog"):
        encoder.encode_images("a dog")
    with pytest.raises(UrlRefusedError, match="ftp"):
        encoder.encode("ftp://example.org/a.jpg")


def test_private_addresses_are_refused_unless_allowed(encoder: Encoder, image_files: list[Path]) -> None:
    handler = partial(SilentHandler, directory=str(image_files[0].parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/00.jpg"
        with pytest.raises(UrlRefusedError, match=r"127\.0\.0\.1"):
            encoder.encode([url])
        open_encoder = copy.copy(encoder)
        open_encoder.fetch_limits = FetchLimits(allow_private=True)
        found = open_encoder.encode(url)
        server.shutdown()
    np.testing.assert_array_equal(found, encoder.encode(image_files[0]))


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_bad_inputs_are_skipped_on_request_and_reported(
    encoder: Encoder, image_files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    expected = encoder.encode(image_files)
    image_files[7].write_bytes(b"")
    image_files[15].unlink()
    skipped: dict[int, InputError] = {}
    with caplog.at_level(logging.WARNING, "perception_encoder"):
        found = encoder.encode([*image_files, "gone.png"], skipped=skipped)
    assert {index: type(error) for index, error in skipped.items()} == {
        7: MediaDecodeError,
        15: MediaNotFoundError,
        20: MediaNotFoundError,
    }
    np.testing.assert_allclose(found, np.delete(expected, [7, 15], axis=0), **CLOSE)
    assert [record.args[0] for record in caplog.records] == list(skipped.values())
    with pytest.raises(MediaDecodeError):
        encoder.encode(image_files[7], skipped=skipped)  # there would be nothing to return


def test_a_loaded_encoder_is_the_same_model(encoder: Encoder, checkpoint: Path, image_files: list[Path]) -> None:
    loaded = load(checkpoint, dtype=torch.float32)
    assert loaded.name == "PE-Core-N16-128"
    assert isinstance(loaded.model, CLIP)
    np.testing.assert_array_equal(loaded.encode(image_files[0]), encoder.encode(image_files[0]))
    assert load(str(checkpoint), dtype=torch.bfloat16).weight_hash == encoder.weight_hash


def test_one_encoder_serves_several_threads(encoder: Encoder, image_files: list[Path]) -> None:
    jobs = [image_files, ["a dog", "a cat"], image_files[:3], [*image_files[::-1], "a horse"]]
    expected = [encoder.encode(job) for job in jobs]
    found: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        found[number] = encoder.encode(jobs[number % len(jobs)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        np.testing.assert_array_equal(found[number], expected[number % len(jobs)])


@pytest.mark.parametrize(("layer", "index"), [(0, 0), (5, 5), (-2, 10)])
def test_any_layer_can_be_pooled(encoder: Encoder, image_files: list[Path], layer: int, index: int) -> None:
    visual = encoder.visual
    with torch.no_grad():
        batch = tensors(encoder, [open_image(path) for path in image_files[:3]])
        ((patches, prefix),) = visual.forward_intermediates(
            batch, [index], return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )
    expected = {"mean": patches.mean(1), "cls": prefix[:, 0], "tokens": patches}
    for pool, vectors in expected.items():
        found = encoder.encode(image_files[:3], normalize=False, layer=layer, pool=pool)
        np.testing.assert_allclose(found, vectors.numpy(), rtol=0, atol=1e-5)
    assert encoder.feature(layer).pool == "mean"


def test_the_last_layer_is_normed_and_is_the_default(encoder: Encoder, image_files: list[Path]) -> None:
    with torch.no_grad():
        tokens = encoder.visual.forward_features(tensors(encoder, [open_image(image_files[0])]))[0].numpy()
    np.testing.assert_allclose(encoder.encode(image_files[0], False, pool="tokens"), tokens[1:], rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        encoder.encode(image_files[0], False, layer=11, pool="cls"), tokens[0], rtol=0, atol=1e-5
    )
    assert encoder.feature(-1) == encoder.feature() == encoder.feature(11, "attn")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layer": 12}, "layers 0 to 11"),
        ({"layer": -13}, "layers 0 to 11"),
        ({"layer": 5, "pool": "attn"}, "after layer 11 only"),
        ({"pool": "max"}, "attn, cls, mean, tokens"),
        ({"frames": 0}, "at least 1"),
        ({"layer": 3}, "texts share a space"),
        ({"pool": "mean"}, "texts share a space"),
    ],
)
def test_settings_that_do_not_exist_are_refused(encoder: Encoder, settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        encoder.encode("a dog", **settings)  # type: ignore[arg-type]


def test_a_model_without_text_or_pooling(image_files: list[Path]) -> None:
    spatial = Encoder.of(create_model("PE-Spatial-T16-512"), dtype=torch.float32)
    assert spatial.tokenizer is None
    assert spatial.feature().pool == "mean"
    assert spatial.encode(image_files[0], layer=0).shape == (spatial.dimension,) == (192,)
    with pytest.raises(ConfigError, match="no text tower"):
        spatial.encode_texts("a dog")
    with pytest.raises(ConfigError, match="has none"):
        spatial.encode(image_files[0], pool="attn")


def test_a_model_that_projects_its_class_token(image_files: list[Path]) -> None:
    """As vanilla CLIP does, and as the first points of `pe reproduce recipe` are."""
    visual = VisionConfig(
        image_size=32, patch_size=16, width=16, depth=2, heads=2, mlp_width=32, attention_pool=False, output_dim=8
    )
    text = TextConfig(context_length=8, width=16, depth=1, heads=2, output_dim=8)
    model = CLIP(visual, text).eval()
    initialize(model, torch_generator(0))
    encoder = Encoder.of(model, "cpu", torch.float32)
    vectors = encoder.encode_images(image_files[:2], normalize=False)
    with torch.inference_mode():
        wanted = model.encode_image(tensors(encoder, [open_image(path) for path in image_files[:2]]))
    np.testing.assert_allclose(vectors, wanted, **CLOSE)
    assert encoder.encode_texts(["a dog"]).shape == (1, 8)
    assert encoder.feature(0).pool == "mean"


def test_bfloat16_is_near_and_leaves_the_given_model_alone(encoder: Encoder, image_files: list[Path]) -> None:
    model = encoder.model
    half = Encoder.of(model, dtype=torch.bfloat16)
    assert next(half.model.parameters()).dtype == torch.bfloat16
    assert next(model.parameters()).dtype == torch.float32
    for inputs in (image_files[:8], ["a dog", "a cat"]):
        found, exact = half.encode(inputs), encoder.encode(inputs)
        assert found.dtype == np.float32
        assert (found * exact).sum(1).min() > 0.999
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert half.weight_hash == encoder.weight_hash == weight_hash(model)


def test_bad_weights_raise_rather_than_give_nan(image_files: list[Path]) -> None:
    model = create_model("PE-Core-N16-128")
    with torch.no_grad():
        model.visual.ln_pre.bias[0] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        Encoder.of(model, dtype=torch.float32).encode(image_files[0], layer=0)


def test_the_text_tower_alone_encodes_texts_alone(checkpoint: Path, encoder: Encoder) -> None:
    texts = load(checkpoint, "cpu", torch.float32, towers="text")
    assert texts.weight_hash == encoder.weight_hash and texts.describe(texts.feature()) == encoder.describe(
        encoder.feature()
    )
    np.testing.assert_array_equal(texts.encode_texts(["a dog", "a cat"]), encoder.encode_texts(["a dog", "a cat"]))
    with pytest.raises(ConfigError, match="load it whole for images and videos"):
        texts.encode_images(np.zeros((8, 8, 3), np.uint8))
