"""Compare exported files with torch, and write the card of a directory: README.md and SHA256SUMS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import cosine_similarity

from perception_encoder.errors import OutputError
from perception_encoder.files import checksum, write_text
from perception_encoder.models.checkpoints.weights import Model, weight_hash
from perception_encoder.models.clip import CLIP
from perception_encoder.models.registry import MODELS, SCORES, canonical_name, find_model
from perception_encoder.preprocess.tokenizer import write_preprocessing
from perception_encoder.runtime.quantization import LEAST_COSINE
from perception_encoder.runtime.runtime import Precision

README, SUMS = "README.md", "SHA256SUMS"
TOLERANCE = 1e-3
"""Maximum difference from torch, relative to the largest value."""
_TITLES = {"onnx": "ONNX", "openvino": "OpenVINO"}
_CARD = """\
---
license: {tag}
library_name: {library}
tags:
- perception-encoder
---

# {title}

{about}

Written by perception-encoder from weights {weights}. Licence of the weights: {licence}.

{scores}

`sha256sum -c SHA256SUMS` checks the files. The program needs {packages}; run it in this directory, with an image.jpg.

```python
{program}```
"""


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """A model, or a tower of one, in a file of `export_onnx` or `export_openvino`."""

    path: str
    """Of OpenVINO, the .xml file; its weights are in the .bin file beside it."""
    model: str
    """The model's name, or a head's task and encoder."""
    precision: Precision
    difference: float | None
    """Maximum difference from torch in float32: of ONNX relative to the largest value, and None in int8 or without
    onnxruntime; of OpenVINO between the values of unit embeddings."""
    cosine: float | None = None
    """Minimum cosine similarity of embeddings in int8 with torch's in float32, of a fixed set; None for others."""

    def __str__(self) -> str:
        compared = "not compared: onnxruntime is missing"
        if self.cosine is not None:
            compared = f"a cosine similarity of at least {self.cosine:.4f} with torch"
        elif self.difference is not None:
            compared = f"{self.difference:.1e} from torch"
        return f"{self.path}: {self.model} in {self.precision}, {compared}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def verify(name: str, found: Tensor, expected: Tensor, precision: Literal["float32", "int8"] = "float32") -> float:
    """Return the difference of a file's outputs from torch's, relative to the largest value; in int8, their cosine.

    Raises OutputError for more than `TOLERANCE`, or in int8 for a minimum cosine similarity below 0.999.
    """
    if precision == "int8":
        cosine = float(cosine_similarity(found, expected, dim=-1).min())
        if not cosine >= LEAST_COSINE:
            raise OutputError(
                f"{name} in int8 has a cosine similarity of {cosine:.4f} with torch, below {LEAST_COSINE}; "
                "export it without int8"
            )
        return cosine
    exact = expected.double()
    difference = float((found - exact).abs().max() / exact.abs().max().clamp_min(1e-6)) if exact.numel() else 0.0
    if not difference < TOLERANCE:
        raise OutputError(f"{name} differs from torch by {difference:.1e}, more than {TOLERANCE}")
    return difference


def write_card(
    directory: Path,
    *,
    title: str,
    library: str,
    about: str,
    weights: str,
    licence: str,
    packages: str,
    program: str,
    scores: Mapping[str, float],
) -> None:
    """Write README.md, and SHA256SUMS of all files in the directory.

    Args:
        directory: An exported model.
        title: The model's name.
        library: The hub's name of the library that reads the directory.
        about: What the files hold.
        weights: Their hash and type.
        licence: Of the weights.
        packages: What `program` needs, as pip's arguments.
        program: Reads the directory that it runs in.
        scores: Known ones of these weights, by name.
    """
    rows = [f"| {name} | {value:.4g} |" for name, value in scores.items()]
    table = "\n".join(["| score | value |", "|---|---|", *rows])
    text = _CARD.format(
        tag="apache-2.0" if licence == "Apache-2.0" else "other",
        library=library,
        title=title,
        about=about,
        weights=weights,
        licence=licence,
        scores=table if rows else "No scores of these weights are known; `pe eval` evaluates a model.",
        packages=packages,
        program=program,
    )
    write_text(directory / README, text)
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / SUMS)
    lines = (f"{checksum(path)}  {path.relative_to(directory).as_posix()}\n" for path in files)
    write_text(directory / SUMS, "".join(lines))


def write_model_card(
    directory: Path,
    model: Model,
    library: str,
    precision: str,
    scores: Mapping[str, float] | None,
    about: str,
    packages: str,
    program: str,
) -> None:
    """Write the card of a model that is written for another library: see `write_card`, and for `scores` below."""
    entry = find_model(model.name)
    name, licence = entry.builtin or model.name, entry.licence
    write_card(
        directory,
        title=f"{name} for {_TITLES.get(library, library)}",
        library=library,
        about=about,
        weights=f"{weight_hash(model)}, in {precision}",
        licence=licence if scores is not None else f"not recorded in their file; that of {name} is {licence}",
        packages=packages,
        program=program,
        scores=scores or {},
    )


def describe_towers(
    directory: Path,
    source: str | Path,
    model: Model,
    size: tuple[int, int],
    library: str,
    precision: str,
    about: str,
    program: str,
) -> None:
    """Write the card of towers for images of `size`, and the files for preprocessing: of OpenVINO, of uint8 pixels.

    `source`: what the model was loaded from; published scores are those of its own image size and of float32.
    """
    visual, text = (model.visual, model.text) if isinstance(model, CLIP) else (model, None)
    length = text.config.context_length if text else None
    write_preprocessing(directory, size, length, uint8=library == "openvino")
    scores = published_scores(source)
    if scores and (not precision.startswith("float32") or size != (visual.config.image_size,) * 2):
        scores = {}
    runtime = {"onnx": "onnxruntime"}.get(library, library)
    packages = f"{runtime}, numpy, Pillow and tokenizers" if text else f"{runtime}, numpy and Pillow"
    write_model_card(directory, model, library, precision, scores, about, packages, program)


def published_scores(source: str | Path) -> dict[str, float] | None:
    """Return the published scores of a model given by name; None for a file, whose weights may be others."""
    name = None if Path(source).exists() else canonical_name(str(source))
    if name is None:
        return None
    return {f"{SCORES[key]}, percent (published)": value for key, value in MODELS[name].published.items()}
