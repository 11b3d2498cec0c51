"""Convert checkpoints to other layouts, and to directories of other libraries."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from perception_encoder.errors import ConfigError, OutputError
from perception_encoder.exports.card import published_scores
from perception_encoder.exports.layouts import CONFIG_FILES, write_layout_directory
from perception_encoder.exports.sentence_transformers import write_sentence_transformers
from perception_encoder.models.checkpoints.files import SUFFIXES, check_suffix
from perception_encoder.models.checkpoints.weights import load_model, write_checkpoint
from perception_encoder.models.registry import shown_name

Layout = Literal["published", "timm", "open_clip", "sentence-transformers"]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A converted checkpoint."""

    path: str
    model: str
    layout: Layout
    dtype: Literal["float32", "float16"]
    omitted: int
    """Number of tensors that the layout cannot hold: in timm's, those of the text tower."""
    configured: bool
    """Whether the library's configuration was written beside the weights."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def convert(
    source: str | Path, out: str | Path, to: Layout = "published", *, half: bool = False, overwrite: bool = False
) -> Conversion:
    """Convert a checkpoint of any layout, or a model by name, to another layout.

    `out`: a .safetensors, .pt, .pth or .bin file; for timm and open_clip, a name without suffix is a directory, which
    also gets the library's configuration with the published preprocessing, and a card; for sentence-transformers, it is
    always a directory, which needs nothing of this package. `half`: write float16. Raises UnknownModelError,
    CheckpointError (a model that the layout cannot hold), ConfigError (a suffix), and OutputError if `out` exists and
    is not to be overwritten, or is the source.

        pe.convert("PE-Core-L14-336", "core-open-clip", to="open_clip")
    """
    path = Path(out)
    if to == "sentence-transformers" and path.suffix in SUFFIXES:
        raise ConfigError(f"{path}: sentence-transformers reads a directory; give a name without {path.suffix}")
    as_directory = to == "sentence-transformers" or (to in CONFIG_FILES and not path.suffix)
    if not as_directory:
        check_suffix(path)
    if path.exists() and (not overwrite or (Path(source).exists() and path.samefile(source))):
        raise OutputError(f"{path} exists; choose another name, or --overwrite it, unless it is the input")
    model = load_model(source)
    omitted, scores = 0, published_scores(source)
    if to == "sentence-transformers":
        write_sentence_transformers(model, path, half, scores)
    elif as_directory:
        omitted = write_layout_directory(model, path, to, half, scores)
    else:
        omitted = write_checkpoint(model, path, half, layout=to)
    return Conversion(
        path=str(path),
        model=shown_name(str(source)) or model.name,
        layout=to,
        dtype="float16" if half else "float32",
        omitted=omitted,
        configured=as_directory,
    )
