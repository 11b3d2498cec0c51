"""What tells one answering model from another: not its name, which a retrained model keeps, but its weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from perception_encoder.preprocess.conversation import Generator, YesNoModel


def describe_generator(generator: Generator | YesNoModel) -> dict[str, Any]:
    """Return what is stored of a model: its name, the hash of its weights or its address, and how it sees media."""
    from torch import nn

    from perception_encoder.models.checkpoints.weights import state_hash

    module = getattr(generator, "model", None) or getattr(getattr(generator, "decoder", None), "model", None)
    facts: dict[str, Any] = {"name": generator.name}
    if isinstance(module, nn.Module):
        facts["weights"] = state_hash(module.state_dict())
    if address := getattr(generator, "address", None):
        facts["address"] = address
    media = getattr(generator, "media", None)
    if dataclasses.is_dataclass(media) and not isinstance(media, type):
        facts["media"] = dataclasses.asdict(media)
    return facts


def generator_digest(generator: Generator | YesNoModel) -> str:
    """Return a digest of all that `describe_generator` tells but the name: answers are stored with it."""
    facts = {name: value for name, value in describe_generator(generator).items() if name != "name"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
