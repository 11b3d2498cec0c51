"""Load any captioner or language model of the engine by its name."""

from __future__ import annotations

import importlib
import re

from perception_encoder.errors import ConfigError, UnknownModelError
from perception_encoder.preprocess.conversation import Generator

_ADDRESS = re.compile(r"(?P<url>https?://[^#]+)#(?P<model>.+)")
_FUNCTION = re.compile(r"python:(?P<module>[\w.]+):(?P<function>\w+)")
HUB = "hf:"


def is_endpoint(name: str) -> bool:
    """Whether a model is behind an address."""
    return _ADDRESS.fullmatch(name) is not None


def check_generator_name(name: str) -> None:
    """ConfigError for an address without a model's name, and for a function that is not named in full."""
    if name.startswith(("http://", "https://")) and not is_endpoint(name):
        raise ConfigError(f"{name} names no model; add it, as in {name.rstrip('#')}#qwen3-8b")
    if name.startswith("python:") and not _FUNCTION.fullmatch(name):
        raise ConfigError(f"{name!r} is not of the form python:package.module:function")


def load_engine_model(name: str, sees: bool = True, timeout: float = 120.0, tiles: int | None = None) -> Generator:
    """Load a model.

    `name`: `https://host/v1#MODEL`, an endpoint that speaks OpenAI's chat protocol; `hf:NAME`, a model of transformers
    by its directory or hub name; `python:MODULE:FUNCTION`, a function that returns a `Generator`; else what
    `load_language_model` takes, such as `builtin-lang`. If it need not see (`sees`), also `smollm2`, a GGUF file and
    decoder-only models by `hf:NAME`. `timeout`: seconds for an answer of an endpoint. `tiles`: see
    `load_language_model`. Raises ConfigError, UnknownModelError, WeightsUnavailableError and MissingExtraError.
    """
    check_generator_name(name)
    if match := _ADDRESS.fullmatch(name):
        from perception_encoder.video_data_engine.generators.endpoint import EndpointModel

        return EndpointModel(match["url"], match["model"], timeout)
    if match := _FUNCTION.fullmatch(name):
        return getattr(importlib.import_module(match["module"]), match["function"])()
    if sees and name.startswith(HUB):
        from perception_encoder.video_data_engine.generators.transformers_model import load_transformers_model

        return load_transformers_model(name.removeprefix(HUB))
    from perception_encoder.language_alignment.load import load_language_model
    from perception_encoder.language_alignment.text.decoder import SMOLLM2, load_decoder
    from perception_encoder.language_alignment.text.text_model import TextModel
    from perception_encoder.models.precision import choose_device, fast_dtype

    if not sees and (name == SMOLLM2 or name.startswith(HUB) or name.endswith(".gguf")):
        device = choose_device(None)
        decoder = load_decoder(name.removeprefix(HUB), fast_dtype(device))
        decoder.model.to(device)
        return TextModel(decoder.name, decoder)
    try:
        return load_language_model(name, tiles=tiles)
    except UnknownModelError as error:
        raise UnknownModelError(f"{error}, http://HOST/v1#MODEL, hf:NAME or python:MODULE:FUNCTION") from None
