"""Find models of any library by their names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from perception_encoder.models.registry import RANDOM, canonical_name, library_of, portable_name

if TYPE_CHECKING:
    from perception_encoder.models.external import Adapter
    from perception_encoder.models.tower import Tower


def find_adapter(name: str | Path, trust_remote_code: bool = False) -> tuple[Adapter | None, bool]:
    """Return the adapter of another library's model, None for this package's; and whether it has random weights."""
    source = portable_name(str(name))
    random = source.startswith(RANDOM)
    library = library_of(source)
    if not library:
        return None, random
    from perception_encoder.models import external, external_sentences, external_transformers

    adapters: dict[str, type[Adapter]] = {
        "timm": external.TimmModel,
        "open_clip": external.OpenClipModel,
        "hf": external_transformers.TransformersModel,
        "st": external_sentences.SentenceTransformersModel,
    }
    listed = source.removeprefix(RANDOM).partition(":")[2]
    return adapters[library](source, listed, random, trust_remote_code), random


def load_tower(name: str | Path) -> Tower:
    """Load the vision tower of a model of any library, ready for training; raises what `load_layers` does."""
    import torch

    from perception_encoder.models.checkpoints.weights import create_model, load_model
    from perception_encoder.models.initialization import initialize
    from perception_encoder.models.tower import Tower

    adapter, random = find_adapter(name)
    if adapter is not None:
        return adapter.tower()
    source = str(name).removeprefix(RANDOM)
    if random and canonical_name(source) is not None:
        return Tower.of(create_model(source))
    model = load_model(source)
    if random:
        initialize(model, torch.Generator().manual_seed(0))
    return Tower.of(model)
