"""Load a language model that sees, by its name."""

from __future__ import annotations

from pathlib import Path

import torch

from perception_encoder.errors import UnknownModelError
from perception_encoder.language_alignment.language_model import LanguageModel
from perception_encoder.language_alignment.perception_lm import Convention, read_perception_lm
from perception_encoder.language_alignment.weights import read_language_model, read_tower
from perception_encoder.models.checkpoints.files import SUFFIXES
from perception_encoder.models.checkpoints.layout_directory import write_layout_directory
from perception_encoder.models.checkpoints.weights import packaged_weights, write_checkpoint
from perception_encoder.models.precision import choose_device, fast_dtype
from perception_encoder.models.registry import BUILTIN_LANG, SMALL_LANG
from perception_encoder.models.vision_transformer import VisionTransformer

WEIGHTS = "language.safetensors"
"""The file that a run of language alignment writes into its directory."""


def load_language_model(
    name: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    tiles: int | None = None,
    like: Convention = "reference",
) -> LanguageModel:
    """Load a model that answers about images and videos.

    `name`: "builtin-lang"; a file or directory that `pe train language_…` wrote; or a Perception-LM of transformers, a
    directory or `facebook/Perception-LM-1B`, fetched from the hub once. `tiles`: most tiles of an image, by default
    the model's own, of a Perception-LM 36 on a GPU and 4 on a CPU. `device`, `dtype`: by default a CUDA GPU if there
    is one, and the type that it computes fastest. `like`: see `read_perception_lm`. Raises UnknownModelError,
    CheckpointError, WeightsUnavailableError, and MissingExtraError without transformers.
    """
    device = choose_device(device)
    dtype = dtype or fast_dtype(device)
    source = find_language_model(name)
    if (path := Path(source)).is_file():
        model = read_language_model(path, device, dtype, tiles)
        model.name = path.parent.resolve().name if path.name == WEIGHTS else path.stem
        return model
    tiles = tiles if tiles is not None else 36 if device.type == "cuda" else 4
    return read_perception_lm(source, device, dtype, tiles, like)


def find_language_model(name: str | Path) -> str | Path:
    """Return the file of this package, or the directory or the hub's name of a Perception-LM, without loading it.

    Raises UnknownModelError and WeightsUnavailableError.
    """
    if str(name) == BUILTIN_LANG:
        return packaged_weights(BUILTIN_LANG)
    path = Path(name)
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    if path.exists() or "perception-lm" in str(name).lower():
        return name
    raise UnknownModelError(
        f"no language model is called {str(name)!r}; give {BUILTIN_LANG}, a file or directory that `pe train` wrote, "
        f"or {SMALL_LANG}"
    )


def export_lang(run: str | Path, out: str | Path, *, half: bool = False) -> VisionTransformer:
    """Write the encoder of a language alignment as a PE-Lang; returns it.

    `run`: the directory or the file of a run. `out`: a .safetensors, .pt, .pth or .bin file under the published names,
    or a new directory, which timm loads as `local-dir:OUT` and transformers by AutoModel.from_pretrained. `half`: write
    float16. Raises UnknownModelError, CheckpointError and OutputError.

        pe.export_lang("runs/language_own", "my-lang")
    """
    tower = read_tower(Path(find_language_model(run)))
    if Path(out).suffix in SUFFIXES:
        write_checkpoint(tower, Path(out), half)
    else:
        write_layout_directory(tower, Path(out), "timm", half)
    return tower
