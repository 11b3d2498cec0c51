"""Weights in and out: strict loading of every layout, safetensors first, and nothing that runs code.

Real weights or an error: a model is random only where `create_model(name)` asks for no weights.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
import zipfile
from importlib.resources import files
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from perception_encoder.errors import CheckpointError, OutputError, WeightsUnavailableError
from perception_encoder.models.clip import CLIP
from perception_encoder.models.initialization import initialize
from perception_encoder.models.layouts import StateDict, to_published
from perception_encoder.models.registry import BUILTIN, MODELS, ModelEntry, canonical_name, find_model
from perception_encoder.models.vision_transformer import VisionTransformer

Model = CLIP | VisionTransformer

_SCALE_SUFFIX = ".row_scale"  # beside an int8 tensor: one factor a row


def create_model(
    name: str, pretrained: str | Path | bool | None = None, generator: torch.Generator | None = None
) -> Model:
    """A float32 model by name: a `CLIP` for Core, a `VisionTransformer` for Lang and Spatial.

    `pretrained`: True for the published weights (from the hub, or the package for `builtin`), a path for your own,
    None for random ones, drawn from `generator` (seed 0 if none is given).
    Raises UnknownModelError, CheckpointError, WeightsUnavailableError.
    """
    entry = find_model(name)
    if pretrained:
        path = locate_weights(entry) if pretrained is True else Path(pretrained)
        return from_state_dict(entry.name, read_checkpoint(path)[0])
    model = build(entry).to_empty(device="cpu")
    initialize(model, generator or torch.Generator().manual_seed(0))
    return model.train(False)


def from_state_dict(name: str, state_dict: StateDict) -> Model:
    """A float32 model with these weights, whatever their layout; CheckpointError lists every key that does not fit.

    A Core checkpoint that holds the vision tower alone (timm's) gives the `VisionTransformer` alone.
    """
    entry = find_model(name)
    model, published = _align(entry, state_dict)
    problems = _misfits(model, published)
    if problems:
        more = f"\n  … and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise CheckpointError(
            f"these weights do not fit {entry.name} ({len(problems)} keys):\n  " + "\n  ".join(problems[:20]) + more
        )
    state = {n: published[_published_name(n, model)].to(torch.float32) for n in model.state_dict()}
    model.load_state_dict(state, assign=True)
    return model.requires_grad_().train(False)


def _align(entry: ModelEntry, state_dict: StateDict) -> tuple[Model, StateDict]:
    """The model on the meta device that these weights are meant for, and the weights under its published names."""
    published = to_published(_unwrap(state_dict), entry.vision)
    vision_only = entry.text is None or all(n.startswith("visual.") for n in published) or "conv1.weight" in published
    if vision_only:
        published = {n.removeprefix("visual."): tensor for n, tensor in published.items()}
    return build(entry, vision_only), published


def _misfits(model: Model, given: StateDict) -> list[str]:
    """What is missing, unexpected or mis-shaped, a line each."""
    expected = published_state_dict(model)
    problems = [f"missing {n} {tuple(t.shape)}" for n, t in expected.items() if n not in given]
    problems += [f"unexpected {n} {tuple(t.shape)}" for n, t in given.items() if n not in expected]
    for n, tensor in expected.items():
        if n in given and given[n].shape != tensor.shape:
            problems.append(f"{n} is {tuple(given[n].shape)}, must be {tuple(tensor.shape)}")
    return problems


def build(entry: ModelEntry, vision_only: bool = False) -> Model:
    """The model on the meta device: shapes without memory."""
    with torch.device("meta"):
        if entry.text is None or vision_only:
            return VisionTransformer(entry.vision, entry.name)
        return CLIP(entry.vision, entry.text, entry.name)


def published_state_dict(model: Model) -> StateDict:
    """The model's weights under the published names."""
    return {_published_name(name, model): tensor for name, tensor in model.state_dict().items()}


def _published_name(name: str, model: Model) -> str:
    return name.removeprefix("text.") if isinstance(model, CLIP) else name


def _unwrap(state: StateDict) -> StateDict:
    """Undo what trainers wrap around a state dict: a nesting level, a `module.` prefix."""
    for key in ("state_dict", "weights"):
        if isinstance(state.get(key), dict):
            state = state[key]  # type: ignore[assignment]
    if not all(isinstance(tensor, Tensor) for tensor in state.values()):
        other = [name for name, value in state.items() if not isinstance(value, Tensor)]
        raise CheckpointError(f"not a plain state dict: {', '.join(other[:3])} is no tensor")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def read_checkpoint(path: Path) -> tuple[StateDict, dict[str, str]]:
    """Tensors and text metadata of a .safetensors or .pt file; never executes what the file says."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
                return _expand_rows(state), file.metadata() or {}
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: refused, it holds more than tensors ({_first_line(error)})") from None
    except (safetensors.SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({_first_line(error)})") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a state dict")
    return _unwrap(state), {}


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]


def write_checkpoint(
    model: Model, path: Path, half: bool = False, int8_tokens: bool = False, metadata: dict[str, str] | None = None
) -> None:
    """Write safetensors under the published names, whole or not at all.

    `half`: float16 parameters; `int8_tokens`: the token table as int8 with one scale a row.
    """
    dtype = torch.float16 if half else torch.float32
    state = published_state_dict(model)
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    if int8_tokens:
        table = state["token_embedding.weight"].detach().float().cpu()
        scale = table.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
        tensors["token_embedding.weight"] = (table / scale).round().to(torch.int8)
        tensors["token_embedding.weight" + _SCALE_SUFFIX] = scale.to(torch.float32)
    write_tensors(tensors, path, {"model": model.name, **(metadata or {})})


def write_tensors(tensors: StateDict, path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file through a temporary one beside it; OutputError where that fails."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        safetensors.torch.save_file(tensors, temporary, metadata=metadata)
        os.replace(temporary, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise OutputError(f"{path}: could not be written ({_first_line(error)})") from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _expand_rows(state: StateDict) -> StateDict:
    scales = {n.removesuffix(_SCALE_SUFFIX): state.pop(n) for n in list(state) if n.endswith(_SCALE_SUFFIX)}
    return state | {name: state[name].float() * scale for name, scale in scales.items()}


def locate_weights(entry: ModelEntry) -> Path:
    """The published weights on disk: from the package for `builtin`, else from the hub (downloaded once)."""
    if entry.name == BUILTIN:
        path = Path(str(files("perception_encoder") / "weights" / "builtin.safetensors"))
        if not path.is_file():
            raise WeightsUnavailableError(f"{path} is missing from this installation; reinstall perception-encoder")
        return path
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(entry.repository, f"{entry.name}.pt"))
    except Exception as error:  # the hub client raises many kinds, offline, missing and gated among them
        raise WeightsUnavailableError(
            f"the weights of {entry.name} could not be fetched from {entry.repository} ({_first_line(error)}); "
            f"download {entry.name}.pt elsewhere and pass its path"
        ) from error


def load_model(name: str | Path) -> Model:
    """A model with real weights, from `builtin`, an alias, or a checkpoint file whose architecture is recognised."""
    if isinstance(name, str) and canonical_name(name) is not None:
        return create_model(name, pretrained=True)
    path = Path(name)
    if not path.exists() and path.suffix not in (".pt", ".pth", ".bin", ".safetensors"):
        find_model(str(name))  # raises, with near matches
    state, metadata = read_checkpoint(path)
    return from_state_dict(metadata.get("model") or recognise(state, path), state)


def recognise(state: StateDict, path: Path) -> str:
    """The canonical name of the model a checkpoint holds: by its file name where that fits, else by its shapes."""
    fitting = [entry.name for entry in MODELS.values() if not _misfits(*_align(entry, state))]
    if not fitting:
        raise CheckpointError(
            f"{path}: no known architecture has these shapes; name one with create_model(name, pretrained=path)"
        )
    by_name = canonical_name(path.stem)
    return by_name if by_name in fitting else fitting[0]


def weight_hash(model: Model) -> str:
    """SHA-256 over the published names and float32 values, the first 16 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(published_state_dict(model).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
