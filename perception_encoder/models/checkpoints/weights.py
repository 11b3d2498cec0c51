"""Load and save weights: strictly, in every layout, without running code from a file.

A model has real weights, or loading fails; it is random only from `create_model(name)` without weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from perception_encoder.errors import CheckpointError, ConfigError, one_line
from perception_encoder.models.checkpoints.files import quantized_rows, read_checkpoint, write_tensors
from perception_encoder.models.checkpoints.find import TowerChoice, find_weights
from perception_encoder.models.checkpoints.layouts import StateDict, from_published, to_published, unwrap
from perception_encoder.models.clip import CLIP
from perception_encoder.models.initialization import initialize
from perception_encoder.models.registry import MODELS, CoreName, ModelEntry, TowerName, canonical_name, find_model
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.records import parse_json

Model = CLIP | VisionTransformer


@overload
def create_model(name: CoreName, pretrained: bool | None = None, generator: torch.Generator | None = None) -> CLIP: ...


@overload
def create_model(
    name: TowerName, pretrained: str | Path | bool | None = None, generator: torch.Generator | None = None
) -> VisionTransformer: ...


@overload
def create_model(
    name: str, pretrained: str | Path | bool | None = None, generator: torch.Generator | None = None
) -> Model: ...


def create_model(
    name: str, pretrained: str | Path | bool | None = None, generator: torch.Generator | None = None
) -> Model:
    """Create a float32 model by name.

    Args:
        name: An encoder's name or alias; type checkers know the class only for canonical names.
        pretrained: True for the published weights, or a path for yours; by default the weights are random.
        generator: Draws random weights; by default with seed 0.

    Returns:
        A torch module: a `CLIP` for Core, a `VisionTransformer` for Lang and Spatial.

    Raises:
        ModelError: The name is unknown, or the weights could not be fetched or do not fit.

    Examples:
        >>> model = pe.create_model("PE-Core-B16-224", pretrained=True)
        >>> vectors = model.encode_text(pe.tokenizer(model)(["a red mug"]))  # (1, D)
    """
    entry = find_model(name)
    if pretrained:
        return load_file(find_weights(name)[0] if pretrained is True else Path(pretrained), entry)
    model = build(entry).to_empty(device="cpu")
    initialize(model, generator or torch.Generator().manual_seed(0))
    return model.train(False)


def from_state_dict(name: str, state_dict: StateDict) -> Model:
    """Create a float32 model with a copy of weights.

    Args:
        name: An encoder's name or alias.
        state_dict: Weights in the published, timm's or open_clip's layout.

    Returns:
        The model; a `VisionTransformer` if the weights of a Core model lack the text tower, as timm's do.

    Raises:
        UnknownModelError: The name is unknown.
        CheckpointError: The weights do not fit; the message lists all mismatches.

    Examples:
        >>> model = pe.from_state_dict("PE-Core-B16-224", torch.load("mine.pt"))
    """
    return _fit(find_model(name), unwrap(state_dict), copy=True)


def _fit(entry: ModelEntry, state: StateDict, copy: bool) -> Model:
    """Return the model with these weights; without `copy`, float32 tensors become its parameters if they can.

    They must be aligned for vector instructions: products would round differently.
    """
    model, published = _align(entry, state)
    if problems := _misfits(model, published):
        theirs = ", ".join(fitting_models(state))
        known = f" (they are those of {theirs})" if theirs else ""
        problems[20:] = [f"… and {len(problems) - 20} more"] if len(problems) > 20 else []
        raise CheckpointError("\n  ".join([f"these weights do not fit {entry.name}{known}:", *problems]))
    tensors = {n: published[_published_name(n, model)] for n in model.state_dict()}
    aligned = {n: t.to(torch.float32, copy=copy or t.data_ptr() % 64 != 0) for n, t in tensors.items()}
    model.load_state_dict(aligned, assign=True)
    return model.requires_grad_().train(False)


def _align(entry: ModelEntry, state: StateDict) -> tuple[Model, StateDict]:
    """Return the model on the meta device for these weights, and the weights under its published names."""
    published = to_published(state, entry.vision)
    if all(name.startswith("visual.") for name in published):
        published = {name.removeprefix("visual."): tensor for name, tensor in published.items()}
    return build(entry, vision_only="conv1.weight" in published), published


def fitting_models(state: StateDict) -> list[str]:
    """Return the canonical names of the models with a state dict's shapes."""
    return [entry.name for entry in MODELS.values() if not _misfits(*_align(entry, state))]


def _misfits(model: Model, state: StateDict) -> list[str]:
    """Return a line for each missing, unexpected or mis-shaped tensor."""
    expected = published_state_dict(model)
    problems = [f"missing {n} {tuple(t.shape)}" for n, t in expected.items() if n not in state]
    problems += [f"unexpected {n} {tuple(t.shape)}" for n, t in state.items() if n not in expected]
    for n, tensor in expected.items():
        if n in state and state[n].shape != tensor.shape:
            problems.append(f"{n} is {tuple(state[n].shape)}, must be {tuple(tensor.shape)}")
        elif n in state and not state[n].is_floating_point():
            problems.append(f"{n} holds {str(state[n].dtype).removeprefix('torch.')}, must hold floating-point numbers")
    return problems


def build(entry: ModelEntry, vision_only: bool = False) -> Model:
    """Build a model on the meta device: shapes without memory."""
    with torch.device("meta"):
        if entry.text is None or vision_only:
            return VisionTransformer(entry.vision, entry.name)
        return CLIP(entry.vision, entry.text, entry.name)


def published_state_dict(model: Model) -> StateDict:
    """Return a model's weights under the published names, not copied.

    Args:
        model: A model of `create_model`, `from_state_dict` or `Encoder.model`.

    Raises:
        CheckpointError: The tower has a new classifier, which no layout can hold.

    Examples:
        >>> torch.save(pe.published_state_dict(model), "mine.pt")
    """
    if (model.visual if isinstance(model, CLIP) else model).head is not None:
        raise CheckpointError(f"{model.name} has a new classifier, which no layout can hold; save state_dict()")
    return {_published_name(name, model): tensor for name, tensor in model.state_dict().items()}


def _published_name(name: str, model: Model) -> str:
    return name.removeprefix("text.") if isinstance(model, CLIP) else name


def write_checkpoint(
    model: Model,
    path: Path,
    half: bool = False,
    *,
    layout: str = "published",
    int8_tokens: bool = False,
    metadata: dict[str, str] | None = None,
) -> int:
    """Write the weights in a layout, atomically; return the number of omitted tensors (timm's: the text tower).

    `half`: write float16; `int8_tokens`: write the published token table as int8 with one scale per row. Raises
    CheckpointError, ConfigError and OutputError.
    """
    published = {name: tensor.detach().cpu() for name, tensor in published_state_dict(model).items()}
    config = model.visual.config if isinstance(model, CLIP) else model.config
    dtype = torch.float16 if half else torch.float32
    tensors = {n: t.to(dtype).contiguous() for n, t in from_published(published, config, layout).items()}
    if int8_tokens:
        tensors |= quantized_rows("token_embedding.weight", published["token_embedding.weight"])
    write_tensors(tensors, path, {"model": model.name, **_changes(model), **(metadata or {})})
    return sum(not n.startswith("visual.") for n in published) if layout == "timm" and isinstance(model, CLIP) else 0


def _changes(model: Model) -> dict[str, str]:
    """Return the fields of a model's towers that differ from its registry entry, as metadata "vision" and "text"."""
    entry = find_model(model.name)
    towers = {"vision": model.visual, "text": model.text} if isinstance(model, CLIP) else {"vision": model}
    changes = {}
    for name, tower in towers.items():
        listed = vars(getattr(entry, name))
        if changed := {field: value for field, value in vars(tower.config).items() if value != listed[field]}:
            changes[name] = json.dumps(changed)
    return changes


def load_model(name: str | Path, towers: TowerChoice = "all") -> Model:
    """Load a model from a name, or from a checkpoint file whose architecture is recognised.

    `towers="text"` leaves the vision tower of a two-tower model unread, on the meta device.
    """
    return load_file(*find_weights(name), towers)


def find_entry(name: str | Path) -> ModelEntry:
    """Return the architecture of a name or path; for a name, no weights are read or downloaded."""
    if isinstance(name, str) and canonical_name(name) is not None:
        return find_model(name)
    model = load_model(name)
    vision, text = (model.visual.config, model.text.config) if isinstance(model, CLIP) else (model.config, None)
    return dataclasses.replace(find_model(model.name), vision=vision, text=text)


def load_file(path: Path, entry: ModelEntry | None = None, towers: TowerChoice = "all") -> Model:
    """Load what `find_weights` found, as the given model, the model named in the file, or the recognised one."""
    state, metadata = read_checkpoint(path)
    if towers == "text" and not all(name.startswith("visual.") for name in state):  # small tensors cost nothing
        state = {n: t.to("meta") if n.startswith("visual.") and t.dim() > 1 else t for n, t in state.items()}
    try:
        if entry is None:
            name = canonical_name(metadata.get("model", ""))
            entry = MODELS[name] if name is not None else recognise(state, path.stem)
        model = _fit(_changed_entry(entry, metadata), state, copy=False)
        if towers == "text" and isinstance(model, CLIP):
            model.visual.to("meta")
        return model
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _changed_entry(entry: ModelEntry, metadata: dict[str, str]) -> ModelEntry:
    """Return the entry with the `_changes` that a file's metadata lists; CheckpointError if they do not fit."""
    towers = {}
    for name in ("vision", "text"):
        try:
            if name in metadata:
                towers[name] = dataclasses.replace(getattr(entry, name), **parse_json(metadata[name], dict[str, Any]))
        except (TypeError, ValueError, ConfigError) as error:
            raise CheckpointError(f"its metadata does not fit {entry.name} ({name}: {one_line(error)})") from None
    return dataclasses.replace(entry, **towers)


def recognise(state: StateDict, file_name: str) -> ModelEntry:
    """Return the model of a state dict: the file name's model if it fits, else one with the same shapes."""
    fitting, by_name = fitting_models(state), canonical_name(file_name)
    if not fitting:
        raise CheckpointError("no known architecture has these shapes; name one: create_model(name, pretrained=path)")
    return MODELS[by_name if by_name in fitting else fitting[0]]


def weight_hash(model: Model) -> str:
    """Return the first 16 hex digits of the SHA-256 of a model's published names and float32 values."""
    return state_hash(published_state_dict(model))


def state_hash(state: StateDict) -> str:
    """Return the first 16 hex digits of the SHA-256 of names and float32 values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        values = tensor.detach().to("cpu", torch.float32).flatten().numpy()
        digest.update(values.view(np.uint8).data)
    return digest.hexdigest()[:16]
