"""Perception Encoder: images, videos and text as vectors, in one space.

    import perception_encoder as pe

    encoder = pe.load("builtin")
    vectors = encoder.encode(["a red mug", Path("mug.jpg")])  # (2, D)

Names are imported when they are first used, so that importing the package stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perception_encoder import errors as errors
    from perception_encoder.inference.encoder import Encoder as Encoder
    from perception_encoder.inference.other_encoder import load_any as load
    from perception_encoder.models.checkpoints.weights import create_model as create_model
    from perception_encoder.models.checkpoints.weights import from_state_dict as from_state_dict
    from perception_encoder.models.checkpoints.weights import published_state_dict as published_state_dict
    from perception_encoder.models.registry import list_models as list_models
    from perception_encoder.preprocess.image import image_transform as image_transform
    from perception_encoder.preprocess.image import pad_images as pad_images
    from perception_encoder.preprocess.tokenizer import tokenizer as tokenizer

__version__ = "0.2.0"

_HOMES = {
    "Encoder": "perception_encoder.inference.encoder",
    "create_model": "perception_encoder.models.checkpoints.weights",
    "from_state_dict": "perception_encoder.models.checkpoints.weights",
    "image_transform": "perception_encoder.preprocess.image",
    "list_models": "perception_encoder.models.registry",
    "load": "perception_encoder.inference.other_encoder",
    "pad_images": "perception_encoder.preprocess.image",
    "published_state_dict": "perception_encoder.models.checkpoints.weights",
    "tokenizer": "perception_encoder.preprocess.tokenizer",
}

__all__ = [
    "Encoder",
    "__version__",
    "create_model",
    "errors",
    "from_state_dict",
    "image_transform",
    "list_models",
    "load",
    "pad_images",
    "published_state_dict",
    "tokenizer",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("perception_encoder.errors")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), "load_any" if name == "load" else name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
