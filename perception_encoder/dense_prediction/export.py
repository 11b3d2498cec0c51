"""Export models and heads as ONNX files, checked against torch before they are written."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perception_encoder.dense_prediction.dense_model import DenseModel, HeadInfo
from perception_encoder.dense_prediction.depth import DepthHead
from perception_encoder.dense_prediction.detection.mask_rcnn import PATCH, Detector
from perception_encoder.dense_prediction.heads import is_head, load_head
from perception_encoder.dense_prediction.segmentation import SegmentationHead
from perception_encoder.errors import ConfigError, ShapeError
from perception_encoder.files import replacing, writing
from perception_encoder.models.checkpoints.card import published_scores, write_model_card
from perception_encoder.models.checkpoints.weights import Model, load_model
from perception_encoder.models.clip import CLIP
from perception_encoder.models.export import check_difference, check_maps, check_onnx, run_onnx, save_onnx, write_onnx
from perception_encoder.models.registry import shown_name
from perception_encoder.preprocess.image import to_float
from perception_encoder.preprocess.tokenizer import write_preprocessing
from perception_encoder.runtime.quantization import check_ids, check_pixels

OUTPUTS: dict[str, tuple[str, ...]] = {
    "depth": ("depth",),
    "segmentation": ("classes",),
    "detection": ("boxes", "labels", "scores", "masks"),
}
"""Output names by task; masks (28x28 inside each box) only if the detector has them."""

_IMAGES = """\
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

with Image.open("image.jpg") as image:
    squashed = ImageOps.exif_transpose(image).convert("RGB").resize(({width}, {height}), Image.Resampling.BILINEAR)
pixels = np.asarray(squashed, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
(images,) = onnxruntime.InferenceSession("image.onnx").run(None, {{"images": pixels}})
print(images.shape)
"""
_TEXTS = """\

import tokenizers

rows = tokenizers.Tokenizer.from_file("tokenizer.json").encode_batch(["a photo of a cat", "a photo of a dog"])
ids = np.array([row.ids for row in rows], np.int64)
(texts,) = onnxruntime.InferenceSession("text.onnx").run(None, {"tokens": ids})
unit = [vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) for vectors in (images, texts)]
print(unit[0] @ unit[1].T)
"""


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """An exported file."""

    path: str
    model: str
    """The model's name, or a head's task and encoder."""
    difference: float | None
    """Maximum difference between onnxruntime and torch, relative to the largest value; None without onnxruntime."""
    cosine: float | None = None
    """Minimum cosine similarity between an int8 file's embeddings and torch's; None for others, which differ less."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def export_onnx(
    model: str | Path,
    out: str | Path,
    *,
    size: tuple[int, int] | None = None,
    encoder: str | None = None,
    int8: bool = False,
) -> tuple[OnnxFile, ...]:
    """Write a model or a head as ONNX, checked against torch.

    Of a model, `out` is a new directory: image.onnx takes images (B, 3, H, W) of one `size` (height, width), RGB from
    -1 to 1; text.onnx, of models with a text tower, token ids (B, T) padded with zeros to the context length. Both
    return embeddings, not normalised; a model without pooling (Lang, Spatial) returns tokens (B, N, D).
    preprocessor_config.json and tokenizer.json are for programs without this package. `int8`: multiply in int8;
    images and texts of a fixed set keep a cosine similarity of at least 0.999.
    Of a head (built-in, or a file of `pe train`), `out` is a file that includes the encoder; `encoder`: a model for a
    head that names none of this package. It takes images (B, 3, H, W), uint8, RGB, and gives depth in metres
    (builtin-depth: up to a factor) or classes (B, H, W); a detector takes one image, and gives boxes in pixels, labels
    from 1, scores, and masks of 28x28 inside the boxes, best first, of any score.

    Raises MissingExtraError without the extra `onnx`, ShapeError for a size that is not whole patches, ConfigError for
    a DETR or a head in int8, and OutputError, also for a difference above 0.001 of the largest value.

        pe.export_onnx("PE-Core-L14-336", "core-onnx", size=(336, 448))
    """
    if is_head(model):
        if int8:
            raise ConfigError("heads are not exported in int8; omit int8")
        head = load_head(model, model=encoder)
        difference = export_head(head.model, head.info, Path(out), size)
        return (OnnxFile(path=str(out), model=f"{head.info.task} on {head.info.encoder}", difference=difference),)
    if encoder is not None:
        raise ConfigError(f"{model} is not a head; omit the encoder")
    network = load_model(model)
    visual, text = (network.visual, network.text) if isinstance(network, CLIP) else (network, None)
    side = visual.config.image_size
    fixed = None
    if int8:
        fixed = {"image": to_float(torch.from_numpy(check_pixels(*(size or (side, side)))))}
        if text is not None:
            ids = torch.from_numpy(check_ids(text.config.context_length))
            fixed["text"] = nn.functional.pad(ids, (0, text.config.context_length - ids.shape[1]))
    found = write_onnx(network, Path(out), size, fixed)
    write_preprocessing(Path(out), size or (side, side), text.config.context_length if text else None)
    with writing(Path(out)):
        scores = published_scores(model)
        if scores and (int8 or size not in (None, (side, side))):
            scores = {}
        _write_card(Path(out), network, size or (side, side), "int8" if int8 else "float32", scores)
    return tuple(
        OnnxFile(
            path=str(Path(out) / f"{tower}.onnx"),
            model=shown_name(str(model)) or network.name,
            difference=None if int8 else value,
            cosine=value if int8 else None,
        )
        for tower, value in found.items()
    )


def _write_card(
    directory: Path, network: Model, size: tuple[int, int], precision: str, scores: dict[str, float] | None
) -> None:
    has_text = isinstance(network, CLIP)
    about = f"image.onnx takes images (B, 3, {size[0]}, {size[1]}), RGB from -1 to 1."
    if has_text:
        about += " text.onnx takes token ids (B, T), padded with zeros."
    about += " Outputs are embeddings, not normalised, or tokens (B, N, D) of a model without pooling."
    packages = "onnxruntime, numpy, Pillow" + " and tokenizers" * has_text
    program = _IMAGES.format(height=size[0], width=size[1]) + _TEXTS * has_text
    write_model_card(directory, network, "onnx", precision, scores, about, packages, program)


class _Exported(nn.Module):
    """Images (B, 3, H, W), uint8, to a head's predictions at their size; a detector takes one image."""

    def __init__(self, model: DenseModel, size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        features, head = self.model.backbone(images), self.model.head
        if isinstance(head, DepthHead | SegmentationHead):
            return head.predict(features, self.size)
        scale = self.model.backbone.patch_size / PATCH
        (detected,), _ = head(features, valid_sizes=[(self.size[0] / scale, self.size[1] / scale)])
        boxes = detected["boxes"] * scale
        rest = (detected["masks"],) if head.masks else ()
        return (boxes, detected["labels"], detected["scores"], *rest)


@torch.no_grad()
def export_head(model: DenseModel, info: HeadInfo, path: Path, size: tuple[int, int] | None = None) -> float | None:
    """Write a head as ONNX for images of `size` (height, width), by default squares of the head's size.

    Returns the largest difference to torch through onnxruntime, over the largest value; None without onnxruntime. See
    `export_onnx`.
    """
    check_onnx()
    if info.task not in OUTPUTS:
        raise ConfigError(f"a head for {info.task} cannot be exported; supported: {', '.join(OUTPUTS)}")
    height, width = size or (info.image_size, info.image_size)
    patch = model.backbone.patch_size
    if height % patch or width % patch:
        raise ShapeError(f"the size is {height}x{width}; both sides must be multiples of the patch, {patch}")
    if isinstance(model.head, Detector):
        model.head.model.roi_heads.score_thresh = 0.0
    exported = _Exported(model, (height, width)).eval()
    generator = torch.Generator().manual_seed(0)
    example = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)
    metadata = {"model": info.encoder, "weights": info.weights, "pixels": "RGB, 0 to 255"}
    metadata["head"] = json.dumps(asdict(info))
    with writing(path), replacing(path) as temporary:
        if info.task != "detection":
            save_onnx(exported, example, ("images", OUTPUTS[info.task][0]), metadata, temporary)
            return check_maps(exported, example, temporary)
        _save_detector(exported, example[:1], metadata, temporary)
        return _check_detector(exported, example[1:], temporary)


def _save_detector(exported: _Exported, example: Tensor, metadata: dict[str, str], path: Path) -> None:
    import onnx

    outputs = OUTPUTS["detection"][: 4 if exported.model.head.masks else 3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from torch about itself, and about torchvision's data-dependent shapes
        torch.onnx.export(
            exported,
            (example,),
            str(path),
            input_names=["images"],
            output_names=list(outputs),
            dynamic_axes={name: {0: "detections"} for name in outputs},
            opset_version=17,
            dynamo=False,  # only the tracing exporter supports torchvision's detectors
        )
    graph = onnx.load(path)
    graph.metadata_props.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in metadata.items())
    onnx.save(graph, path)


def _check_detector(exported: _Exported, image: Tensor, path: Path) -> float | None:
    """Compare the scores of a detector with torch's: see `check_difference`."""
    found = run_onnx(path, image)
    if found is None:
        return None
    scores = [np.sort(values)[::-1] for values in (found[2], exported(image)[2].numpy())]
    count = min(map(len, scores))
    if abs(len(scores[0]) - len(scores[1])) > 1:  # one score may be at the threshold of an overlap
        return check_difference(path, float("inf"))
    return check_difference(path, float(np.abs(scores[0][:count] - scores[1][:count]).max()) if count else 0.0)
