"""Errors of other libraries name the model and what to do; models that serve one use refuse the other."""

from __future__ import annotations

import re

import pytest

from perception_encoder.errors import ConfigError, UnknownModelError, WeightsUnavailableError
from perception_encoder.inference.open_model import open_model


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("timm:no_such_model", UnknownModelError, "timm:no_such_model could not be loaded"),
        ("open_clip:no_such_model,x", UnknownModelError, "open_clip:no_such_model,x could not be loaded"),
        ("open_clip:ViT-B-32", WeightsUnavailableError, "names no weights; say open_clip:ViT-B-32,TAG"),
        ("open_clip:local-dir:/no/such", WeightsUnavailableError, "could not be loaded"),
    ],
)
def test_a_model_that_cannot_be_had_is_named(name: str, error: type[Exception], message: str) -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(error, match=re.escape(message)):
        open_model(name).encoder("crop")


def test_a_model_without_layers_or_without_embeddings_says_so() -> None:
    with pytest.raises(ConfigError, match="open_clip:ViT-B-32,openai cannot be taken at a layer"):
        open_model("open_clip:ViT-B-32,openai").tower()
    for name in ("hf:any", "random:timm:test_vit", "random:open_clip:ViT-B-32,openai", "random:builtin"):
        with pytest.raises(ConfigError, match=f"{name} is only a vision tower"):
            open_model(name).encoder("squash")
