"""Images are encoded once, in order; what cannot be decoded is reported and not replaced."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.evaluation import embeddings as module
from perception_encoder.evaluation.embeddings import CachingEncoder, cache_features, encode_images
from perception_encoder.formats.media_directory import Clip
from perception_encoder.preprocess.image import open_image
from perception_encoder.preprocess.video import read_frames
from tests.clips import clip
from tests.evaluation.colours import ColourEncoder, image_bytes

COLOURS = ("red", "green", "blue", "red", "white")


def task(broken: tuple[int, ...] = ()) -> LabelledImages:
    samples = tuple(b"no image" if i in broken else image_bytes(colour) for i, colour in enumerate(COLOURS))
    return LabelledImages("colours", tuple("abcde"), samples, COLOURS)


def test_vectors_are_in_the_images_order(monkeypatch) -> None:
    whole = encode_images(ColourEncoder(), task())
    monkeypatch.setattr(module, "CHUNK", 2)
    chunked = encode_images(ColourEncoder(), task())
    np.testing.assert_array_equal(whole.vectors, chunked.vectors)
    assert whole.vectors.argmax(axis=1).tolist()[:4] == [0, 1, 2, 0]
    assert whole.labels == chunked.labels == COLOURS
    assert whole.targets(["blue", "green", "red", "white"]).tolist() == [2, 1, 0, 2, 3]
    assert whole.failures == ()


def test_the_same_images_take_other_labels() -> None:
    encoder = ColourEncoder()
    cache = CachingEncoder(encoder)
    fine = task(broken=(1,))
    features = encode_images(cache, fine)
    coarse = replace(fine, name="colours/coarse", labels=("warm", "?", "cold", "warm", "none"))
    assert encode_images(cache, coarse).labels == ("warm", "cold", "warm", "none")
    assert encode_images(cache, coarse).vectors is features.vectors and encoder.image_count == 4
    assert encode_images(cache, replace(fine, trim=1)).vectors is not features.vectors
    assert (cache.count, [failure.source for failure in cache.failures]) == (10, ["b", "b"])


def test_a_video_is_the_mean_of_its_frames_made_unit(tmp_path) -> None:
    (tmp_path / "v.mp4").write_bytes(clip(30))
    sources = (image_bytes("red"), tmp_path / "v.mp4", Clip(tmp_path / "v.mp4", 0.4, 0.8), tmp_path / "none.mp4")
    clips = LabelledImages("clips", tuple("abcd"), sources, tuple("wxyz"))
    features = encode_images(ColourEncoder(), clips, frames=4)
    for row, (start, end) in ((1, (None, None)), (2, (0.4, 0.8))):
        images = read_frames(tmp_path / "v.mp4", frames=4, start=start, end=end).images
        mean = ColourEncoder().encode_images(images, normalize=False).mean(axis=0)
        np.testing.assert_allclose(features.vectors[row], mean / np.linalg.norm(mean), rtol=1e-5)
    assert features.vectors[0].tolist() == ColourEncoder().encode_images([open_image(image_bytes("red"))])[0].tolist()
    assert np.abs(features.vectors[1] - features.vectors[2]).max() > 0
    assert [(failure.source, failure.reason) for failure in features.failures] == [("d", "no such file")]


def test_a_border_is_cut_off() -> None:
    framed = Image.new("RGB", (24, 16), "red")
    framed.paste((0, 0, 255), (2, 2, 22, 14))
    stream = io.BytesIO()
    framed.save(stream, "PNG")
    objects = LabelledImages("objects", ("a", "b"), (stream.getvalue(), image_bytes("red")), ("x", "y"), trim=2)
    np.testing.assert_allclose(encode_images(ColourEncoder(), objects).vectors[0], [0, 0, 1])
    features = encode_images(ColourEncoder(), replace(objects, images=(image_bytes("red"), small()), trim=2))
    assert features.failures[0].reason == "is too small to crop 2 pixels from each side"


def small() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (24, 4)).save(stream, "PNG")
    return stream.getvalue()


def test_the_transforms_of_a_model_share_the_embeddings_of_texts() -> None:
    both = {"squash": ColourEncoder(), "crop": ColourEncoder()}
    cached = cache_features(both)
    for encoder in cached.values():
        for _ in range(2):
            assert encoder.encode_texts(["red", "a blue cup"]).argmax(axis=1).tolist() == [0, 2]
    assert (both["squash"].texts, both["crop"].texts) == (2, 0)
