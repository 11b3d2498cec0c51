"""Export a model as a directory that OpenVINO alone can use."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from perception_encoder.errors import ConfigError, OutputError
from perception_encoder.exports.card import ExportedFile, describe_towers
from perception_encoder.files import replacing_new, writing
from perception_encoder.models.checkpoints.weights import Model, load_model
from perception_encoder.models.clip import CLIP
from perception_encoder.models.registry import shown_name
from perception_encoder.runtime.cache import MODEL, WEIGHTS, Tower
from perception_encoder.runtime.machine import check_openvino, versions
from perception_encoder.runtime.program import AGREEMENT, EXAMPLE, Program, hints, unit_difference
from perception_encoder.runtime.runtime import PRECISIONS, Precision

_SATURATION = " On x86 CPUs without VNNI, sums in int8 may saturate: compare the embeddings with float32's there."
_IMAGES = """\
import numpy as np
import openvino{imports}
from PIL import Image, ImageOps

core = openvino.Core()
options = {options}
images = core.compile_model("image.xml", "CPU", options)


def pixels(path):
    image = ImageOps.exif_transpose(Image.open(path)).resize(({width}, {height}), Image.Resampling.BILINEAR)
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


image_vectors = unit(images(np.stack([pixels("image.jpg")]))[0])
print(image_vectors.shape)
"""
_TEXTS = """
texts = core.compile_model("text.xml", "CPU", options)
tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")
rows = tokenizer.encode_batch(["a photo of a cat", "a photo of a dog"])
text_vectors = unit(texts(np.array([row.ids for row in rows], dtype=np.int64))[0])
similarities = image_vectors @ text_vectors.T  # cosines; times {scale:.4g} and softmax: probabilities
print(similarities)
"""


def export_openvino(
    model: str | Path, out: str | Path, *, precision: Precision = "float32", size: tuple[int, int] | None = None
) -> tuple[ExportedFile, ...]:
    """Write a model as a new directory that OpenVINO alone can use, compared with torch.

    image.xml takes RGB pixels (B, 3, H, W), uint8; text.xml, of models with a text tower, token ids (B, T), int64. Both
    return embeddings, not normalized; a model without pooling (Lang, Spatial) returns tokens (B, N, D). tokenizer.json
    and preprocessor_config.json are for programs without this package; README.md has one. bfloat16 and int8 models must
    be compiled with the hints that README.md shows.

    Args:
        model: A model's name or path.
        out: A new directory.
        precision: "float32", "bfloat16" or "int8".
        size: Height and width of images, in pixels; by default those of training.

    Raises:
        MissingExtraError: The extra `fast` is not installed.
        ConfigError: The precision is unknown, or the model gives tokens, in int8.
        ShapeError: The size is not whole patches.
        ModelError: Loading fails (see `pe.load`), or a tower differs from torch by more than the precision allows.
        OutputError: Writing fails, or an int8 tower has a cosine similarity below 0.999 on a fixed set.

    Examples:
        >>> pe.export_openvino("PE-Core-L14-336", "core-openvino", precision="bfloat16")
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
    check_openvino()
    import openvino

    out = Path(out)
    network = load_model(model)
    visual = network.visual if isinstance(network, CLIP) else network
    visual.grid_of(*(size or (visual.config.image_size,) * 2))  # a clear error for sizes that do not fit
    if precision == "int8" and not visual.config.pools:
        raise ConfigError(f"{network.name} gives tokens, which lose too much in int8; export it in bfloat16")
    towers: tuple[Tower, ...] = ("image", "text") if isinstance(network, CLIP) else ("image",)
    files = []
    with writing(out, also=(RuntimeError,)), replacing_new(out) as temporary:  # OpenVINO's for a full disk
        core = openvino.Core()
        for tower in towers:
            about = _write_tower(core, network, tower, precision, size, temporary)
            files.append(
                ExportedFile(
                    path=str(out / f"{tower}.xml"),
                    model=shown_name(str(model)) or network.name,
                    precision=precision,
                    difference=about["difference"],
                    cosine=about.get("cosine"),
                )
            )
        _describe(model, network, precision, size or (visual.config.image_size,) * 2, temporary)
    return tuple(files)


def _write_tower(
    core: Any, model: Model, tower: Tower, precision: Precision, size: tuple[int, int] | None, directory: Path
) -> dict[str, Any]:
    """Write a tower's .xml and .bin files, and return what `convert_tower` says of it."""
    from perception_encoder.runtime.convert import convert_tower, tower_of

    made = directory / "made"
    made.mkdir()
    about = convert_tower(core, tower_of(model, tower, size=size), model.name, precision, made)
    if about["precision"] != precision:
        raise OutputError(f"{model.name}: {about['note']}; export it in bfloat16")
    (made / MODEL).rename(directory / f"{tower}.xml")
    (made / WEIGHTS).rename(directory / f"{tower}.bin")
    with np.load(made / EXAMPLE) as arrays:
        inputs, outputs = arrays["inputs"], arrays["outputs"]
    (made / EXAMPLE).unlink()
    made.rmdir()
    found = Program(core, directory / f"{tower}.xml", precision)(inputs)
    if not unit_difference(found, outputs) <= AGREEMENT[precision]:
        raise OutputError(f"{tower}.xml does not give what it gave when it was converted")
    return about


def _describe(source: str | Path, model: Model, precision: Precision, size: tuple[int, int], directory: Path) -> None:
    """Write the files for preprocessing, README.md and SHA256SUMS."""
    visual, has_texts = (model.visual, True) if isinstance(model, CLIP) else (model, False)
    height, width = size
    program = _IMAGES.format(
        width=width,
        height=height,
        options=json.dumps(hints(precision)),
        imports="\nimport tokenizers" if has_texts else "",
    )
    if isinstance(model, CLIP):
        program += _TEXTS.format(scale=math.exp(model.logit_scale.item()))
    about = f"image.xml takes RGB pixels (B, 3, {height}, {width}), uint8, and gives "
    if visual.config.pools:
        about += "embeddings (B, D), not normalized."
    else:
        about += f"tokens (B, N, D){', the class token first' if visual.config.class_token else ''}."
    if has_texts:
        about += " text.xml takes token ids (B, T), int64, padded with zeros: those of tokenizer.json."
    about += " preprocessor_config.json says how images are resized; the model scales pixels."
    if precision == "int8":
        about += _SATURATION
    kind = f"{precision}, with OpenVINO {versions()['openvino']}"
    describe_towers(directory, source, model, size, "openvino", kind, about, program)
