"""Export models and heads as ONNX files, checked against torch before they are written."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from perception_encoder.dense_prediction.dense_model import DenseModel, HeadInfo
from perception_encoder.dense_prediction.depth import DepthHead
from perception_encoder.dense_prediction.detection.mask_rcnn import PATCH, Detector
from perception_encoder.dense_prediction.heads import is_head, load_head
from perception_encoder.dense_prediction.segmentation import SegmentationHead
from perception_encoder.errors import ConfigError, OutputError, ShapeError, needs_extra
from perception_encoder.exports.card import ExportedFile, describe_towers, verify
from perception_encoder.files import replacing, replacing_new, writing
from perception_encoder.models.checkpoints.weights import Model, load_model, weight_hash
from perception_encoder.models.clip import CLIP
from perception_encoder.models.registry import shown_name
from perception_encoder.preprocess.image import to_float
from perception_encoder.runtime.quantization import check_ids, check_images
from perception_encoder.runtime.runtime import Precision

OUTPUTS: dict[str, tuple[str, ...]] = {
    "depth": ("depth",),
    "segmentation": ("classes",),
    "detection": ("boxes", "labels", "scores", "masks"),
}
"""Output names by task; masks (28x28 inside each box) only if the detector has them."""
Inputs = Mapping[str, Tensor]
"""Fixed inputs by tower: "image", images (B, 3, H, W) from -1 to 1; "text", token ids (B, T)."""

_PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}
"""Metadata by which onnxruntime's quantisation knows that it need not ask for its own preparation."""
EXTERNAL_BYTES = 2**30  # bytes of weights beyond which they lie beside the .onnx file, which itself may hold 2 GiB

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


def export_onnx(
    model: str | Path,
    out: str | Path,
    *,
    size: tuple[int, int] | None = None,
    encoder: str | None = None,
    int8: bool = False,
) -> tuple[ExportedFile, ...]:
    """Write a model or a head as ONNX, checked against torch.

    Of a model, image.onnx takes images (B, 3, H, W), RGB from -1 to 1; text.onnx, of models with a text tower, token
    ids (B, T) padded with zeros to the context length. Both return embeddings, not normalized; a model without pooling
    (Lang, Spatial) returns tokens (B, N, D). preprocessor_config.json and tokenizer.json are for programs without this
    package. A head takes images (B, 3, H, W), uint8, RGB, and gives depth in metres (builtin-depth: up to a factor) or
    classes (B, H, W); a detector takes one image, and gives boxes in pixels, labels from 1, scores, and masks of 28x28
    inside the boxes, best first, of any score.

    Args:
        model: A model's name or path, or a head: built-in, or a file of `pe train`.
        out: Of a model a new directory, of a head a file that includes the encoder.
        size: Height and width of images, in pixels; by default those of training.
        encoder: The model of a head that names none of this package.
        int8: Multiply in int8; on a fixed set, images and texts keep a cosine similarity of at least 0.999.

    Raises:
        MissingExtraError: The extra `onnx` is not installed.
        ShapeError: The size is not whole patches.
        ModelError: Loading fails: see `pe.load`.
        ConfigError: The head is a DETR, or one in int8.
        OutputError: Writing fails, or a value differs from torch's by more than 0.001 of the largest.

    Examples:
        >>> pe.export_onnx("PE-Core-L14-336", "core-onnx", size=(336, 448))
    """
    if is_head(model):
        if int8:
            raise ConfigError("heads are not exported in int8; omit int8")
        head = load_head(model, model=encoder)
        named = f"{head.info.task} on {head.info.encoder}"
        difference = export_head(head.model, head.info, Path(out), size)
        return (ExportedFile(path=str(out), model=named, precision="float32", difference=difference),)
    if encoder is not None:
        raise ConfigError(f"{model} is not a head; omit the encoder")
    network = load_model(model)
    visual, text = (network.visual, network.text) if isinstance(network, CLIP) else (network, None)
    height, width = size or (visual.config.image_size,) * 2
    fixed = None
    if int8:
        fixed = {"image": to_float(torch.from_numpy(check_images(height, width)))}
        if text is not None:
            ids = torch.from_numpy(check_ids(text.config.context_length))
            fixed["text"] = nn.functional.pad(ids, (0, text.config.context_length - ids.shape[1]))
    found = write_onnx(network, Path(out), size, fixed)
    about = f"image.onnx takes images (B, 3, {height}, {width}), RGB from -1 to 1."
    if text:
        about += " text.onnx takes token ids (B, T), padded with zeros."
    about += " Outputs are embeddings, not normalized, or tokens (B, N, D) of a model without pooling."
    program = _IMAGES.format(height=height, width=width) + (_TEXTS if text else "")
    precision: Precision = "int8" if int8 else "float32"
    with writing(Path(out)):
        describe_towers(Path(out), model, network, (height, width), "onnx", precision, about, program)
    return tuple(
        ExportedFile(
            path=str(Path(out) / f"{tower}.onnx"),
            model=shown_name(str(model)) or network.name,
            precision=precision,
            difference=None if int8 else value,
            cosine=value if int8 else None,
        )
        for tower, value in found.items()
    )


def write_onnx(
    model: Model, directory: Path, size: tuple[int, int] | None = None, int8: Inputs | None = None
) -> dict[str, float | None]:
    """Write the towers to a new directory, all or nothing; return what `verify` says of each, None without onnxruntime.

    `int8`: quantise the towers, and compare them on these inputs. Raises what `export_onnx` raises.
    """
    check_onnx(int8=int8 is not None)
    with writing(directory), replacing_new(directory) as temporary:
        visual = model.visual if isinstance(model, CLIP) else model
        height, width = size or (visual.config.image_size, visual.config.image_size)
        visual.grid_of(height, width)  # a clear error for sizes that do not fit
        noise = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
        towers: dict[str, tuple[nn.Module, Tensor, str]] = {"image": (visual, 2 * noise - 1, "images")}
        if isinstance(model, CLIP):
            text = model.text.config
            tokens = torch.arange(1, 2 * text.context_length + 1).view(2, -1) % text.vocabulary
            towers["text"] = model.text, tokens, "tokens"
        kind = "features" if visual.config.pools else "tokens"
        metadata = {"model": model.name, "weights": weight_hash(model), "pixels": "RGB, -1 to 1"}
        differences: dict[str, float | None] = {}
        for tower, (module, example, inputs) in towers.items():
            path = temporary / f"{tower}.onnx"
            large = sum(parameter.nbytes for parameter in module.parameters()) > EXTERNAL_BYTES
            names = inputs, f"{tower}_{kind}"
            if int8 is None:
                save_onnx(module, example, names, metadata, path, external=large)
                differences[tower] = check_maps(module, example, path)
                continue
            (whole := temporary / "float32").mkdir()
            save_onnx(module, example, names, metadata | _PREPARED, whole / path.name, external=large)
            check_maps(module, example, whole / path.name)
            differences[tower] = _quantize(module, int8[tower], whole / path.name, path, external=large)
            shutil.rmtree(whole)
        return differences


@torch.no_grad()
def _quantize(module: nn.Module, inputs: Tensor, whole: Path, path: Path, external: bool) -> float:
    """Write a file with int8 products; return its minimum cosine similarity with torch; raises what `verify` does.

    Ranges of activations are found in each call: static ones were less exact and no faster. Weights have 7 bits:
    onnxruntime adds two products in 16 bits on x86 CPUs without VNNI, which 8 bits would overflow.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        whole,
        path,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        op_types_to_quantize=["MatMul", "Gemm"],
        use_external_data_format=external,
        extra_options={"MatMulConstBOnly": True},
    )
    found = _run(path, inputs)
    assert found is not None
    return verify(path.name, found[0], module(inputs), "int8")


def check_onnx(int8: bool = False) -> None:
    """Raise MissingExtraError without the libraries that write ONNX, or that quantise it (`int8`)."""
    with needs_extra("onnx"):
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401

        if int8:
            import onnxruntime  # noqa: F401


def save_onnx(
    module: nn.Module,
    example: Tensor,
    names: tuple[str, str],
    metadata: dict[str, str],
    path: Path,
    external: bool = False,
) -> None:
    """Write a module with one input and one output (`names`) as ONNX for any batch size.

    `external`: store the weights beside the file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # from torch about itself
        program = torch.onnx.export(
            torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)),
            dynamo=True,
            verbose=False,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_shapes=({0: "batch"},),
        )
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces, with the paths of this machine
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=external)


@torch.no_grad()
def check_maps(module: nn.Module, example: Tensor, path: Path) -> float | None:
    """Compare an exported module with torch on three inputs (another batch size): see `verify`."""
    batch = torch.cat([example, example[:1].flip(-1)])
    found = _run(path, batch)
    return None if found is None else verify(path.name, found[0], module(batch))


def _run(path: Path, batch: Tensor) -> list[Tensor] | None:
    """Return the outputs of an ONNX file with one input; None without onnxruntime."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(values) for values in session.run(None, {session.get_inputs()[0].name: batch.numpy()})]


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
    """Compare the scores of a detector with torch's: see `verify`."""
    found = _run(path, image)
    if found is None:
        return None
    ours, theirs = (scores.sort(descending=True).values for scores in (found[2], exported(image)[2]))
    if abs(len(ours) - len(theirs)) > 1:  # one score may be at the threshold of an overlap
        raise OutputError(f"{path.name} finds {len(ours)} objects in an image, and torch {len(theirs)}")
    count = min(len(ours), len(theirs))
    return verify(path.name, ours[:count], theirs[:count])
