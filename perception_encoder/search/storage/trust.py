"""Load the encoder of an index. An index may come from a stranger, so it chooses only models of this package by name.

For any other, the user names the model once, by building the index or with `--model`. This is remembered in the user's
own settings, for the index's directory and the hash of its weights; what the index itself names is never loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from perception_encoder.errors import OutputError, SearchIndexError
from perception_encoder.files import digest, write_json
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load_chosen
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.models.checkpoints.find import TowerChoice
from perception_encoder.models.defaults import config_directory
from perception_encoder.models.registry import canonical_name, portable_name
from perception_encoder.records import parse_json
from perception_encoder.search.storage.store import IndexStore

logger = logging.getLogger(__name__)


def load_encoder(stores: Sequence[IndexStore], model: ModelSpec | Encoder, towers: TowerChoice = "all") -> Encoder:
    """Load the encoder that made some indexes; SearchIndexError if one was made by another, or what `load` raises.

    `model`: by default what `trusted_model` returns for the first one, with the index's dimensions and decoding.
    """
    first, name = stores[0], str(model.name) if isinstance(model, ModelSpec) else ""
    for store in stores:
        store.check_name(name or first.settings["model"])
    if isinstance(model, ModelSpec):
        model = replace(model, name=name or trusted_model(first.directory, first.settings))
    encoder = adopt(load_chosen(model, towers), first.settings)
    settings = encoder.describe(encoder.feature())
    for store in stores:
        store.check(settings, name or encoder.source)
        if name:
            remember_model(store, name)
    return encoder


def adopt(encoder: Encoder, settings: Mapping[str, Any]) -> Encoder:
    """Return an encoder with the length of vectors and the decoding in `settings`, where none was chosen for it.

    `settings`: as `Encoder.describe` returns them.
    """
    dimensions = settings.get("dimensions")
    if encoder.dimensions is None and dimensions and dimensions < encoder.dimension:
        encoder = encoder.cut(dimensions)
    decoding = encoder.decoding or settings.get("decoding")
    return encoder.decoding_as(decoding) if decoding else encoder


def trusted_model(directory: Path, settings: Mapping[str, Any]) -> str:
    """Return the model to load for an index of which the user named none; SearchIndexError if there is none.

    It is a model of this package that the index names, or what the user named for it before.
    """
    source = str(settings["source"])
    if canonical_name(source) is not None:
        return source
    try:
        return parse_json(_memory(directory, settings).read_bytes(), dict[str, str])["model"]
    except (OSError, ValueError, KeyError):
        raise SearchIndexError(
            f"the index of {directory} names the model {source!r}, which is not a model of this package and may run "
            "code; if you trust it, name it yourself, once, with --model"
        ) from None


def remember_model(store: IndexStore, model: str) -> None:
    """Remember that the user named a model for an index; a name of this package needs no memory."""
    model = portable_name(model)
    if canonical_name(model) is not None:
        return
    path, content = _memory(store.directory, store.settings), {"directory": str(store.directory), "model": model}
    try:
        if not path.exists() or parse_json(path.read_bytes(), object) != content:
            write_json(path, content)
    except (OSError, ValueError, OutputError) as error:
        logger.warning("the model of this index is not remembered, so name it each time with --model: %s", error)


def _memory(directory: Path, settings: Mapping[str, Any]) -> Path:
    return config_directory() / "indexes" / f"{digest(str(directory.resolve()), settings['weight_hash'])}.json"
