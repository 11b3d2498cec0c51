"""This package's own models, as the suite takes them: under both transforms, with what fixes their figures."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import torch

from perception_encoder import __version__
from perception_encoder.inference.encoder import Encoder, load


def load_transforms(name: str) -> tuple[dict[str, Encoder], dict[str, str]]:
    """Load a model under "squash" and under "crop", and its `about`: weight hash, type, device, versions.

    The two share their weights. Errors as those of `load`.
    """
    squash = load(name)
    crop = copy(squash)
    crop.transform = replace(squash.transform, mode="crop")
    about = {
        "weights": squash.weight_hash,
        "dtype": str(squash.dtype).removeprefix("torch."),
        "device": squash.device.type,
        "perception-encoder": __version__,
        "torch": torch.__version__,
    }
    return {"squash": squash, "crop": crop}, about
