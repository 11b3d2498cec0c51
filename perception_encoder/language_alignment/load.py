"""Load models that answer about images, videos and documents, by name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import torch

from perception_encoder.errors import ConfigError, UnknownModelError, one_line
from perception_encoder.exports.layouts import write_layout_directory
from perception_encoder.inference.conversation.assistant import Assistant
from perception_encoder.inference.model_spec import PrecisionChoice, RuntimeChoice
from perception_encoder.language_alignment.language_model import LanguageModel
from perception_encoder.language_alignment.perception_lm import read_perception_lm
from perception_encoder.language_alignment.text.decoder import SMOLLM2, load_decoder
from perception_encoder.language_alignment.text.execution import Execution
from perception_encoder.language_alignment.text.text_model import TextModel
from perception_encoder.language_alignment.weights import read_language_model, read_tower
from perception_encoder.models.checkpoints.files import SUFFIXES
from perception_encoder.models.checkpoints.find import file_inside, packaged_weights
from perception_encoder.models.checkpoints.weights import write_checkpoint
from perception_encoder.models.defaults import language_model
from perception_encoder.models.registry import BUILTIN_LANG, SMALL_LANG
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.runtime.runtime import AUTO

WEIGHTS = "language.safetensors"
"""The file that a run of language alignment writes into its directory."""
HUB = "hf:"
_ENDPOINT = re.compile(r"(?P<url>https?://[^#]+)#(?P<model>.+)")
_FUNCTION = re.compile(r"python:(?P<module>[\w.]+):(?P<function>\w+)")


def load_assistant(
    name: str | Path | None = None,
    *,
    tiles: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    runtime: RuntimeChoice = "auto",
    precision: PrecisionChoice = "auto",
    timeout: float = 120.0,
    text_only: bool = False,
) -> Assistant:
    """Load a model that answers about images, videos and documents.

        assistant = pe.load_assistant("facebook/Perception-LM-1B")
        print(assistant.ask("photo.jpg", "How many cups are on the table?"))

    `name`: a Perception-LM, as a directory or a hub name; a directory or file that `pe train` wrote; `builtin-lang`, a
    demo; `https://HOST/v1#MODEL`, an endpoint of OpenAI's chat protocol; `hf:NAME`, a vision-language model of
    transformers; or `python:MODULE:FUNCTION`, a function that returns an `Assistant`; the default is the choice of
    `pe models use`. `tiles`: maximum number of tiles of an image, for the first three forms; by default the model's, or
    for a Perception-LM 36 on a GPU and 4 on a CPU. `device`, `dtype`: for the same forms; by default a GPU if there is
    one, and its fastest type. `runtime`: what executes the language model, "torch" or, on a CPU, "openvino" (extra
    `fast`; for Llamas such as Perception-LM's and SmolLM2); by default the faster one on this machine. `precision`:
    "float32", "bfloat16", by default if it is fast, or "int8", OpenVINO's, for the weights of the language model.
    `timeout`: maximum number of seconds for an answer of an endpoint. `text_only`: also load language models that
    cannot see: `smollm2`, GGUF files, and decoder-only models as `hf:NAME`. Raises ConfigError, UnknownModelError,
    CheckpointError, WeightsUnavailableError, and MissingExtraError.
    """
    name = language_model(None if name is None else str(name))
    check_name(name)
    alone = text_only and (name == SMOLLM2 or name.startswith(HUB) or name.endswith(".gguf"))
    other = runs_elsewhere(name) and not alone
    if other and tiles is not None:
        raise ConfigError(f"tiles is {tiles}, but {name} tiles images itself; omit it")
    if other and (runtime, precision) != (AUTO, AUTO):
        raise ConfigError(f"{name} does not run in this package; omit runtime and precision")
    if match := _ENDPOINT.fullmatch(name):
        from perception_encoder.language_alignment.endpoint import EndpointModel

        return EndpointModel(match["url"], match["model"], timeout)
    if match := _FUNCTION.fullmatch(name):
        try:
            function = getattr(importlib.import_module(match["module"]), match["function"])
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{name} cannot be imported: {one_line(error)}") from error
        assistant = function()
        if not isinstance(assistant, Assistant):
            raise ConfigError(f"{name} returned a {type(assistant).__name__}; it must return a pe.Assistant")
        return assistant
    if alone:
        plan = Execution.choose(runtime, precision, device, dtype)
        decoder = load_decoder(name.removeprefix(HUB), plan.dtype)
        decoder.model.to(plan.device)
        model = TextModel(decoder.name, decoder)
        model.reader = plan.reader(decoder)
        return model
    if name.startswith(HUB):
        from perception_encoder.language_alignment.transformers_model import load_transformers_model

        return load_transformers_model(name.removeprefix(HUB))
    try:
        return load_language_model(name, device, dtype, tiles=tiles, runtime=runtime, precision=precision)
    except UnknownModelError as error:
        raise UnknownModelError(f"{error}, http://HOST/v1#MODEL, hf:NAME or python:MODULE:FUNCTION") from None


def is_endpoint(name: str) -> bool:
    """Return whether a name is the address of an endpoint with its model."""
    return _ENDPOINT.fullmatch(name) is not None


def runs_elsewhere(name: str) -> bool:
    """Return whether a name is of a model that neither this package's torch nor OpenVINO runs."""
    return is_endpoint(name) or name.startswith(("python:", HUB))


def check_name(name: str, find: bool = False) -> None:
    """Raise ConfigError for an address without a model and for an incomplete function.

    `find`: also raise UnknownModelError or WeightsUnavailableError for a model of ours that does not exist.
    """
    if name.startswith(("http://", "https://")) and not is_endpoint(name):
        raise ConfigError(f"{name} names no model; add it, as in {name.rstrip('#')}#qwen3-8b")
    if name.startswith("python:") and not _FUNCTION.fullmatch(name):
        raise ConfigError(f"{name!r} is not of the form python:package.module:function")
    if find and not runs_elsewhere(name):
        find_language_model(name)


def load_language_model(
    name: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    tiles: int | None = None,
    runtime: RuntimeChoice = "auto",
    precision: PrecisionChoice = "auto",
) -> LanguageModel:
    """Load a model of ours or a Perception-LM: see `load_assistant`."""
    source = find_language_model(name)
    plan = Execution.choose(runtime, precision, device, dtype)
    if (path := Path(source)).is_file():
        model = read_language_model(path, plan.device, plan.dtype, tiles)
        model.name = path.parent.resolve().name if path.name == WEIGHTS else path.stem
    else:
        model = read_perception_lm(source, plan.device, plan.dtype, tiles)
    model.reader = plan.reader(model.decoder)
    return model


def find_language_model(name: str | Path) -> str | Path:
    """Return the file of one of our models, or the directory or hub name of a Perception-LM, without loading it.

    Raises UnknownModelError and WeightsUnavailableError.
    """
    if str(name) == BUILTIN_LANG:
        return packaged_weights(BUILTIN_LANG)
    path = Path(name)
    if path.is_dir() and (inside := file_inside(path, WEIGHTS)) != path:
        return inside
    if path.exists() or "perception-lm" in str(name).lower():
        return name
    raise UnknownModelError(
        f"no language model is called {str(name)!r}; give {BUILTIN_LANG}, a file or directory that `pe train` wrote, "
        f"or {SMALL_LANG}"
    )


def export_lang(run: str | Path, out: str | Path, *, half: bool = False) -> VisionTransformer:
    """Write the encoder of a language alignment as a PE-Lang model, and return it.

    `run`: the directory or the file of a run. `out`: a .safetensors, .pt, .pth or .bin file under the published names,
    or a new directory, which timm loads as `local-dir:OUT` and transformers by AutoModel.from_pretrained. `half`: write
    float16. Raises UnknownModelError, CheckpointError and OutputError.

        pe.export_lang("runs/language_custom", "my-lang")
    """
    tower = read_tower(Path(find_language_model(run)))
    if Path(out).suffix in SUFFIXES:
        write_checkpoint(tower, Path(out), half)
    else:
        write_layout_directory(tower, Path(out), "timm", half)
    return tower
