"""Read and write a trained language model: a safetensors file with trained weights and the names of other parts.

Tensors: `vision.*` under the published names, if the encoder was trained; `projector.*`; `decoder.*`, either adapters
or all weights. Metadata `language` has the rest as JSON: `Parts`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perception_encoder.errors import (
    CheckpointError,
    ConfigError,
    ShapeError,
    UnknownModelError,
    WeightsUnavailableError,
    one_line,
)
from perception_encoder.exports.layouts import write_layout_directory
from perception_encoder.language_models.decoder import (
    Decoder,
    DecoderLoRA,
    adapter_state,
    load_adapters,
    load_decoder,
    merge_decoder_adapters,
)
from perception_encoder.language_models.language_model import LanguageModel
from perception_encoder.language_models.model import PerceptionLanguageModel, Projector
from perception_encoder.models.checkpoints.files import SUFFIXES, read_checkpoint, write_tensors
from perception_encoder.models.checkpoints.find import file_inside, packaged_weights
from perception_encoder.models.checkpoints.weights import load_model, write_checkpoint
from perception_encoder.models.clip import CLIP
from perception_encoder.models.registry import BUILTIN_LANG, MODELS, SMALL_LANG
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.tiling import MediaConfig
from perception_encoder.records import from_fields, parse_json

WEIGHTS = "language.safetensors"
"""The file that a run of language alignment writes into its directory."""
METADATA = "language"
"""Metadata field of a file that describes a language model."""
PE_LANG = "PE-Lang-L14-448"
"""The published model whose name is given to towers of other sizes."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a perception language model: the settings of these names in `LanguageConfig`."""

    encoder: str
    layer: int = -1
    layer_scale: float | None = None
    decoder: str
    context: int | None = None
    chat_template: str | None = None
    pool: int = 2
    linear: bool = False
    lora: DecoderLoRA | None = None
    media: MediaConfig


def load_vision(parts: Parts) -> VisionTransformer:
    """Load the vision tower, cut at its layer, with position embeddings resampled to the size of its images."""
    model = load_model(parts.encoder)
    visual = model.visual if isinstance(model, CLIP) else model
    visual.truncate(parts.layer)
    if parts.media.image_size % visual.config.patch_size:
        size, patch = parts.media.image_size, visual.config.patch_size
        raise ConfigError(f"image_size is {size}; it must be a multiple of the encoder's patch, {patch}")
    if parts.layer_scale is not None and visual.config.layer_scale is None:
        visual.add_layer_scale(parts.layer_scale)
    visual.set_image_size(parts.media.image_size)
    return visual


def build_language_model(
    parts: Parts, generator: torch.Generator, decoder_dtype: torch.dtype | None = torch.float32
) -> tuple[PerceptionLanguageModel, Decoder]:
    """Build a language model from its parts with a new projector, in float32; `decoder_dtype`: see `load_decoder`."""
    decoder = load_decoder(parts.decoder, decoder_dtype, context=parts.context, chat_template=parts.chat_template)
    vision = load_vision(parts)
    projector = Projector(vision.config.width, decoder.dim, parts.pool, parts.linear)
    projector.initialize(generator)
    return PerceptionLanguageModel(vision, projector, decoder.model), decoder


def write_language_model(
    path: Path, parts: Parts, model: PerceptionLanguageModel, vision: bool, decoder: bool, half: bool = True
) -> None:
    """Write the projector, and also the tower and the language model (or its adapters) if they were trained."""
    state = {f"projector.{name}": value for name, value in model.projector.state_dict().items()}
    if vision:
        state |= {f"vision.{name}": value for name, value in model.vision.state_dict().items()}
    if decoder:
        weights = adapter_state(model.decoder) if parts.lora else model.decoder.state_dict()
        state |= {f"decoder.{name}": value for name, value in weights.items()}
    dtype = torch.float16 if half else torch.float32
    tensors = {name: value.detach().to("cpu", dtype).contiguous().clone() for name, value in state.items()}
    write_tensors(tensors, path, {METADATA: json.dumps(dataclasses.asdict(parts))})


def find_language_model(name: str | Path) -> str | Path:
    """Return the file of one of our models, or the directory or hub name of a Perception-LM, or UnknownModelError."""
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


def read_language_model(path: Path, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """Read a file of `write_language_model`; CheckpointError for other files."""
    parts, state = read_trained(path)
    trained = None if parts.lora else next((value.dtype for value in _under("decoder.", state).values()), None)
    with naming(path):  # in the type of its file: a float32 decoder would dominate the memory of loading
        model, decoder = build_language_model(parts, torch.Generator(), trained)
    load_trained(path, parts, state, model)
    merge_decoder_adapters(model.decoder, dtype)
    tables = list(model.decoder.buffers())  # of the frequencies of positions, which bfloat16 would round
    model.to(device, dtype).requires_grad_(False)
    for buffer, exact in zip(model.decoder.buffers(), tables, strict=True):
        buffer.data = exact.to(device)
    name = path.parent.resolve().name if path.name == WEIGHTS else path.stem
    return LanguageModel(name, model, decoder, parts.media)


def read_tower(path: Path) -> VisionTransformer:
    """Read only the aligned vision tower, in float32, named as a PE-Lang; CheckpointError for another file."""
    parts, state = read_trained(path)
    with naming(path):
        tower = load_vision(parts)
    if weights := _under("vision.", state):
        _load_tower(tower, weights, path)
    tower.name = next((e.name for e in MODELS.values() if e.vision == tower.config), PE_LANG)
    return tower


def export_lang(run: str | Path, out: str | Path, *, half: bool = False) -> VisionTransformer:
    """Write the encoder of a language alignment as a PE-Lang model, and return it.

    Args:
        run: The directory or the file of a run.
        out: A .safetensors, .pt, .pth or .bin file under the published names, or a new directory, which timm loads as
            `local-dir:OUT` and transformers by AutoModel.from_pretrained.
        half: Write float16.

    Raises:
        UnknownModelError, CheckpointError: See `load_assistant`.
        OutputError: Writing fails.

    Examples:
        >>> pe.export_lang("runs/language_custom", "my-lang")
    """
    tower = read_tower(Path(find_language_model(run)))
    if Path(out).suffix in SUFFIXES:
        write_checkpoint(tower, Path(out), half)
    else:
        write_layout_directory(tower, Path(out), "timm", half)
    return tower


def read_trained(path: Path) -> tuple[Parts, dict[str, Tensor]]:
    """Read the parts and tensors in a file of `write_language_model`; CheckpointError for other files."""
    state, metadata = read_checkpoint(path)
    try:
        fields = parse_json(metadata[METADATA], dict[str, Any])
        if isinstance(fields.get("media"), dict):
            fields["media"].pop("tile_each", None)  # in the built-in weights, always false
        parts = from_fields(Parts, fields)
    except KeyError:
        raise CheckpointError(f"{path} is not a language model of this package: it has no {METADATA!r}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not a language model of this package: {one_line(error)}") from None
    for part in ("projector", *(["decoder"] if parts.lora else [])):  # else they would be random or not trained
        if not _under(f"{part}.", state):
            raise CheckpointError(f"{path} lacks the weights of its {part}; copy it again from its run")
    return parts, state


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to errors about the parts that it names."""
    try:
        yield
    except (ConfigError, ShapeError, UnknownModelError, CheckpointError, WeightsUnavailableError) as error:
        raise type(error)(f"{path}: {error}") from error
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} names parts that cannot be loaded: {one_line(error)}") from error


def load_trained(path: Path, parts: Parts, state: Mapping[str, Tensor], model: PerceptionLanguageModel) -> None:
    """Load a file's tensors into a model of its parts, in place; adapters are added but not merged."""
    if weights := _under("vision.", state):
        _load_tower(model.vision, weights, path)
    if weights := _under("projector.", state):
        _load(model.projector, weights, path)
    if weights := _under("decoder.", state):
        if parts.lora is not None:
            load_adapters(model.decoder, parts.lora, weights)
        else:
            _load(model.decoder, weights, path)


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _load_tower(tower: VisionTransformer, state: Mapping[str, Tensor], path: Path) -> None:
    """Load weights into a tower and keep its image size, even if the weights have position embeddings of another."""
    size, table = tower.config.image_size, state.get("positional_embedding")
    if table is not None and len(table) > tower.num_prefix_tokens:
        tower.set_image_size(math.isqrt(len(table) - tower.num_prefix_tokens) * tower.config.patch_size)
    _load(tower, state, path)
    tower.set_image_size(size)


def _load(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit its parts: {' '.join(str(error).split())[:300]}") from None
