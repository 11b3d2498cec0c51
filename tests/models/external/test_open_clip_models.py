"""Embeddings of open_clip's models, against open_clip."""

from __future__ import annotations

import numpy as np
from PIL import Image

from perception_encoder.inference.external_encoder import OutputEncoder
from perception_encoder.models.external import OpenClipModel
from tests.evaluation.test_library_models import PlainOpenClipEncoder


def test_an_open_clip_model_is_wrapped_as_it_is() -> None:
    plain = PlainOpenClipEncoder()
    plain.model.visual.preprocess_cfg = {"size": 32}
    adapter = OpenClipModel("open_clip:tiny", "tiny")
    adapter.model, adapter.tokenize = plain.model, plain.tokenize
    encoders = {mode: OutputEncoder(adapter).variant(transform=mode) for mode in ("squash", "crop")}
    images = [Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)) for _ in range(2)]
    np.testing.assert_allclose(encoders["crop"].encode_images(images), plain.encode_images(images), atol=1e-6)
    assert not np.allclose(encoders["squash"].encode_images(images), plain.encode_images(images))
    np.testing.assert_allclose(encoders["crop"].encode_texts(["a dog"]), plain.encode_texts(["a dog"]), atol=1e-6)
