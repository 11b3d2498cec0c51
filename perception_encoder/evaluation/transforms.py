"""A model under each of its transforms, for evaluators."""

from __future__ import annotations

from pathlib import Path

import torch

from perception_encoder import __version__
from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder, check_transform
from perception_encoder.inference.load import load


def load_variants(
    model: str | Path | Encoder,
    transforms: str = "squash,crop",
    layer: int | None = None,
    pool: str | None = None,
    texts: bool = False,
) -> tuple[dict[str, Encoder], dict[str, str]]:
    """Return a model under some transforms, by name, and what its metrics depend on: weight hash, type, versions.

    `model`: an encoder, or a name as `load` takes it. `transforms`: "squash", "crop" or both with a comma; they share
    the weights. `layer`, `pool`: see `Encoder.feature`. `texts`: whether the evaluation needs a text tower. Raises what
    `load` raises, and ConfigError for what the model does not have.
    """
    names = [name.strip() for name in transforms.split(",")]
    for name in names:
        check_transform(name)
    encoder = model if isinstance(model, Encoder) else load(model)
    if texts and not encoder.reads_texts:
        raise ConfigError(f"{encoder.name} is only a vision tower, without texts; evaluate it by k-NN or a probe")
    variants = {name: encoder.variant(transform=name, layer=layer, pool=pool) for name in names}
    about = next(iter(variants.values())).about
    return variants, {**about, "perception-encoder": __version__, "torch": torch.__version__}
