"""A tower's layer with a head on it: depth, classes of pixels, or objects; and the file that holds the head.

A head's file names the encoder, its weights and the layer that it was trained on, and is refused with any other. Of a
finetuned encoder the file has the weights too.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from perception_encoder.dense_prediction.depth import DepthHead, DepthHeadConfig
from perception_encoder.dense_prediction.detection.detr import DetrHead, DetrHeadConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import PATCH, Detector, DetectorHeadConfig
from perception_encoder.dense_prediction.segmentation import SegmentationHead, SegmentationHeadConfig
from perception_encoder.dense_prediction.vitdet import ViTDetBackbone, vitdet_backbone
from perception_encoder.errors import CheckpointError, ConfigError, DataError, PerceptionEncoderError, one_line
from perception_encoder.formats.entries import is_integer, quoted
from perception_encoder.models.checkpoints.files import read_checkpoint, write_tensors
from perception_encoder.models.checkpoints.weights import packaged_weights
from perception_encoder.models.registry import BUILTIN_DEPTH, BUILTIN_DETECTOR, canonical_name
from perception_encoder.models.tower import Tower
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.image import ImageTransform

HeadConfig = DepthHeadConfig | SegmentationHeadConfig | DetectorHeadConfig | DetrHeadConfig
Head = DepthHead | SegmentationHead | Detector | DetrHead
TASKS: Mapping[str, type[HeadConfig]] = {
    "depth": DepthHeadConfig,
    "segmentation": SegmentationHeadConfig,
    "detection": DetectorHeadConfig,
    "detr": DetrHeadConfig,
}
METADATA = "perception_encoder_head"
"""The field of a file's metadata that describes the head."""
MOST_SIDE = 4096
"""Pixels of `image_size`, at most: a square of 17 million pixels. The paper's largest detector has 1824."""
MOST_LAYERS, MOST_PATCHES = 1000, 1024
"""Limits of a file's other numbers: an encoder's layers, and patches along a side."""


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """A backbone as ViTDet's, for large images; the defaults are those of PE-Core-G and PE-Spatial-G."""

    size: int = 32
    """Patches along a window's side."""
    global_blocks: tuple[int, ...] = (12, 24, 36, 49)
    """Blocks that attend to all patches, 0-based."""
    patch_size: int = 16
    """Pixels that patches are resampled to."""
    tile: int | None = None
    """Patches along the side of the position table, which is tiled, after resampling; by default the encoder's own."""
    span: int | None = None
    """Rotary positions along a window's side, and along the image's; by default one a patch of a window."""


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """How images are given to a detector: padded to a square, to the right and below."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    """Of values from 0 to 1, for each channel."""
    margin: int = 0
    """Pixels of the square's side that no image fills."""
    padding: tuple[int, int, int] | None = None
    """The pixel that images are padded with; by default the mean, exactly."""


@dataclass(frozen=True, kw_only=True)
class HeadInfo:
    """What a head is, and what it belongs to."""

    task: str
    """One of `TASKS`."""
    encoder: str
    """Name of the encoder, as `load` takes it."""
    weights: str
    """Hash of the encoder's weights before any finetuning."""
    layer: int
    """0-based."""
    image_size: int
    """Pixels of an image's longer side as the encoder sees it."""
    head: dict[str, Any]
    """The head's config."""
    classes: tuple[str, ...] = ()
    """Names of the classes, without the background of a detector."""
    class_ids: tuple[int, ...] = ()
    """The classes' ids in the dataset, such as COCO's, which have gaps; by default they are counted from 1."""
    relative: bool = False
    """Whether depth is known up to a factor only, not in metres."""
    padded: bool = False
    """Whether images are padded to a square to the right and below, as in training. The built-in detector's are not."""
    masks: bool = False
    """Whether a detector has masks."""
    finetuned: bool = False
    """Whether the file has the encoder's weights, too."""
    windows: WindowConfig | None = None
    """Of an encoder that was trained with windows."""

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The classes as COCO's JSON lists them: `id` and `name`."""
        ids = self.class_ids or range(1, len(self.classes) + 1)
        return [{"id": number, "name": name} for number, name in zip(ids, self.classes, strict=True)]


class Backbone(nn.Module):
    """Images (B, 3, H, W), uint8, to the map of one layer of a tower of any library."""

    mean: Tensor
    deviation: Tensor
    blank: Tensor
    """What images are padded with, scaled."""

    def __init__(
        self,
        tower: Tower,
        layer: int,
        frozen: bool,
        windows: WindowConfig | None = None,
        image_size: int = 0,
        inputs: InputConfig | None = None,
    ) -> None:
        """`layer`: 0-based; of this package's towers later blocks are dropped, in place. A frozen tower takes no
        gradient and stays in eval mode. `windows`: most blocks attend within windows, on images of `image_size`;
        ConfigError for a tower of another library. `inputs`: images are padded to squares of `image_size`, or larger
        ones if they need it."""
        super().__init__()
        self.patch_size, self.width = tower.patch_size, tower.width
        """Pixels along a patch's side, and channels of the map."""
        self.layer, self.frozen, self._tower = layer, frozen, tower
        self.image_size, self.inputs = image_size, inputs
        values = tower if inputs is None else inputs
        self.register_buffer("mean", torch.tensor(values.mean)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(values.deviation)[:, None, None], persistent=False)
        blank = torch.zeros(3, 1, 1)
        if inputs is not None and inputs.padding is not None:
            blank = (torch.tensor(inputs.padding)[:, None, None] / 255 - self.mean) / self.deviation
        self.register_buffer("blank", blank, persistent=False)
        self.model = tower.model
        if isinstance(tower.model, VisionTransformer):
            self.model = own = tower.model.truncate(layer)
            if windows is not None:
                if windows.tile is not None:
                    own.set_image_size(windows.tile * own.config.patch_size)
                self.model = vitdet_backbone(
                    own, image_size, windows.size, windows.global_blocks, windows.patch_size, windows.span
                )
                self.patch_size = windows.patch_size
        elif windows is not None:
            raise ConfigError("windows need a model of this package; set windows=null for one of another library")
        self.model.requires_grad_(not frozen)

    @property
    def depth(self) -> int:
        """Blocks up to the layer."""
        return self.layer + 1

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass; ConfigError for a tower of another library that cannot."""
        if isinstance(self.model, VisionTransformer | ViTDetBackbone):
            self.model.transformer.checkpointing = enable
        elif enable:
            raise ConfigError("checkpointing needs a model of this package; set parallel.checkpointing=false")

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode, but of a frozen tower."""
        super().train(mode)
        if self.frozen:
            self.model.train(False)
        return self

    def forward(
        self, images: UInt8[Tensor, "B 3 H W"], branches: Float[Tensor, "L 2 B"] | None = None
    ) -> Float[Tensor, "B h w D"]:
        """The layer's patch tokens as a map; H and W are multiples of the patch, unless images are padded here.

        `branches`: factors of the residual branches, drawn by `drop_path`; towers of other libraries have their own.
        """
        scaled = (images.float() / 255 - self.mean) / self.deviation
        if self.inputs is not None:
            whole = 2 * self.patch_size
            side = max(self.image_size, -(-max(images.shape[-2:]) // whole) * whole)
            whole_square = self.blank.expand(len(scaled), 3, side, side).clone()
            whole_square[..., : scaled.shape[-2], : scaled.shape[-1]] = scaled
            scaled = whole_square
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if isinstance(self.model, ViTDetBackbone):
                return self.model(scaled, branches).permute(0, 2, 3, 1)
            if isinstance(self.model, VisionTransformer):
                tokens = self.model.forward_features(scaled, norm=False, branches=branches)
            else:
                (tokens,) = self._tower.run(scaled, [self.layer])
        h, w = (side // self.patch_size for side in scaled.shape[-2:])
        return tokens[:, tokens.shape[1] - h * w :].unflatten(1, (h, w))


class DenseModel(nn.Module):
    """A backbone and a head on its map."""

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(
        self, images: UInt8[Tensor, "B 3 H W"], *arguments: Any, branches: Float[Tensor, "L 2 B"] | None = None
    ) -> Any:
        """What the head gives for the map of images; `arguments`: more that it takes; `branches`: see the backbone."""
        return self.head(self.backbone(images, branches), *arguments)

    @torch.no_grad()
    def map_of(self, image: Image.Image, image_size: int) -> Float[Tensor, "1 h w D"]:
        """The backbone's map of an image whose longer side is scaled to `image_size`, the other to whole patches.

        Images that are padded are scaled to whole pixels.
        """
        pixels = ImageTransform(self._sides(image.size, image_size)).pixels(image)
        return self.backbone(pixels[None].to(next(self.parameters()).device))

    def valid_sizes(self, size: tuple[int, int], image_size: int) -> list[tuple[float, float]] | None:
        """Return what a detector's `detect` takes as `inside` for the map of an image of `size` (width, height)."""
        if self.backbone.inputs is None:
            return None
        height, width = (side * PATCH / self.backbone.patch_size for side in self._sides(size, image_size))
        return [(height, width)]

    def _sides(self, size: tuple[int, int], image_size: int) -> tuple[int, int]:
        """Height and width at which an image of `size` (width, height) is encoded."""
        patch, inputs = self.backbone.patch_size, self.backbone.inputs
        if inputs is None:
            width, height = (max(1, round(side * image_size / max(size) / patch)) * patch for side in size)
        else:
            scale = (image_size - inputs.margin) / max(size)
            width, height = (max(1, int(side * scale + 0.5)) for side in size)
        return height, width


def padding_pixel(tower: Tower) -> tuple[int, int, int]:
    """Return the pixel that a tower's images are padded with: its mean, rounded."""
    red, green, blue = (round(255 * value) for value in tower.mean)
    return red, green, blue


def padded_inputs(info: HeadInfo, tower: Tower) -> InputConfig | None:
    """Return how a head's images are given to its tower, if they are padded."""
    if not info.padded:
        return None
    return InputConfig(mean=tower.mean, deviation=tower.deviation, padding=padding_pixel(tower))


def make_head(info: HeadInfo, width: int) -> Head:
    """Make a head with random weights; ConfigError for an unknown task, or settings that the head does not have."""
    if info.task not in TASKS:
        raise ConfigError(f"a head for {info.task!r} is unknown; known: {', '.join(TASKS)}")
    kinds = {each.name: str(each.type) for each in dataclasses.fields(TASKS[info.task])}
    for name, value in info.head.items():
        if type(value).__name__.replace("NoneType", "None") not in kinds.get(name, "").replace("float", "float int"):
            raise ConfigError(f"the head's settings do not fit its task, {info.task}: `{name}` is {quoted(value)}")
    config = TASKS[info.task](**info.head)
    match config:
        case DepthHeadConfig():
            return DepthHead(width, config)
        case SegmentationHeadConfig():
            return SegmentationHead(width, len(info.classes), config.kernel)
        case DetrHeadConfig():
            return DetrHead(width, len(info.classes), config)
    return Detector(width, len(info.classes), info.masks, config)


def write_head(path: Path, model: DenseModel, info: HeadInfo, half: bool = True) -> None:
    """Write a head, and a finetuned encoder's weights, as safetensors; OutputError if that fails."""
    tensors = model.state_dict() if info.finetuned else {f"head.{k}": v for k, v in model.head.state_dict().items()}
    copies = {
        name: each.to(torch.float16 if half and each.is_floating_point() else each.dtype, copy=True).contiguous()
        for name, each in tensors.items()
    }
    write_tensors(copies, path, {METADATA: json.dumps(dataclasses.asdict(info))})


def find_head(name: str | Path) -> Path:
    """Return the file of a built-in head, or the path itself; WeightsUnavailableError if the former is missing."""
    return packaged_weights(name) if name in (BUILTIN_DEPTH, BUILTIN_DETECTOR) else Path(name)


def read_head_info(path: Path, task: str | None = None) -> tuple[HeadInfo, dict[str, Tensor]]:
    """Read what a file holds; raises what `head_info` does."""
    tensors, metadata = read_checkpoint(path)
    return head_info(path, metadata, task), tensors


def head_info(path: Path, metadata: Mapping[str, str], task: str | None = None) -> HeadInfo:
    """Read the description of a head in a file's metadata.

    Raises CheckpointError if it is missing or damaged, and ConfigError for a head for another task. A DETR's task is
    detection.
    """
    if METADATA not in metadata:
        raise CheckpointError(f"{path} is not the file of a head: `pe train depth`, segmenter and detector write those")
    try:
        info = _parse_info(json.loads(metadata[METADATA]))
    except (ValueError, RecursionError, PerceptionEncoderError) as error:
        raise CheckpointError(
            f"{path}: the description of the head is damaged ({one_line(error)}); train the head again, or fetch the "
            "file again"
        ) from None
    if path.name == f"{BUILTIN_DEPTH}.safetensors":
        info = dataclasses.replace(info, relative=True)  # the published file does not say so
    if task not in (None, info.task) and (info.task, task) != ("detr", "detection"):
        raise ConfigError(f"{path} is a head for {info.task}, not for {task}")
    return info


_TEXTS, _FLAGS, _LISTS = (
    ("task", "encoder", "weights"),
    ("masks", "finetuned", "relative", "padded"),
    ("classes", "class_ids"),
)


def _parse_info(fields: Any) -> HeadInfo:
    """Check the fields of a description; DataError or ConfigError for one of another type, or beyond the limits."""
    names = {each.name for each in dataclasses.fields(HeadInfo)}
    if not isinstance(fields, dict) or not fields.keys() <= names:
        raise DataError(f"it is {quoted(fields)}; it must be an object of {', '.join(sorted(names))}")
    for name in _TEXTS:
        if not isinstance(fields.get(name), str):
            raise DataError(f"`{name}` is {quoted(fields.get(name))}; it must be a text")
    for name in _FLAGS:
        if not isinstance(fields.get(name, False), bool):
            raise DataError(f"`{name}` is {quoted(fields[name])}; it must be true or false")
    for name, most in {"layer": MOST_LAYERS, "image_size": MOST_SIDE}.items():
        _integer(fields, name, int(name == "image_size"), most)
    head, windows = fields.get("head"), fields.get("windows")
    if not isinstance(head, dict) or not all(isinstance(each, int | float | bool | None) for each in head.values()):
        raise DataError(f"`head` is {quoted(head)}; it must be an object of numbers")
    classes, ids = (fields.get(name, []) for name in _LISTS)
    if not isinstance(classes, list) or not all(isinstance(each, str) for each in classes):
        raise DataError(f"`classes` is {quoted(classes)}; it must be a list of texts")
    if not isinstance(ids, list) or not all(map(is_integer, ids)) or len(ids) not in (0, len(classes)):
        raise DataError(f"`class_ids` is {quoted(ids)}; it must be a list of {len(classes)} integers")
    lists = {"classes": tuple(classes), "class_ids": tuple(ids)}
    return HeadInfo(**{**fields, **lists, "windows": None if windows is None else _parse_windows(windows)})


def _parse_windows(windows: Any) -> WindowConfig:
    names = {each.name for each in dataclasses.fields(WindowConfig)}
    if not isinstance(windows, dict) or not windows.keys() <= names:
        raise DataError(f"`windows` is {quoted(windows)}; it must be an object of {', '.join(sorted(names))}")
    for name in names - {"global_blocks"}:
        if windows.get(name) is not None:
            _integer(windows, name, 1, MOST_PATCHES)
    blocks = windows.get("global_blocks")
    if not isinstance(blocks, list) or not all(map(is_integer, blocks)):
        raise DataError(f"`global_blocks` is {quoted(blocks)}; it must be a list of integers of at least 0")
    return WindowConfig(**{**windows, "global_blocks": tuple(blocks)})


def _integer(fields: Mapping[str, Any], name: str, least: int, most: int) -> None:
    value = fields.get(name)
    if not is_integer(value, least) or value > most:
        raise DataError(f"`{name}` is {quoted(value)}; it must be an integer from {least} to {most}")


def open_head(
    name: str | Path, open_tower: Callable[[str], Tower], model: str | None = None
) -> tuple[DenseModel, HeadInfo]:
    """Load a head on the encoder that it names, or on `model`; `name`: a built-in head's, or a file.

    Without `model` a file may name only a model of this package, for a name of another library or a path could lead to
    foreign code or files: ConfigError. Raises also what `read_head_info` and `load_dense_model` do.
    """
    path = find_head(name)
    return load_read_head(path, *read_head_info(path), open_tower, model)


def load_read_head(
    path: Path, info: HeadInfo, tensors: Mapping[str, Tensor], open_tower: Callable[[str], Tower], model: str | None
) -> tuple[DenseModel, HeadInfo]:
    """Load what `read_head_info` read of a file; see `open_head`."""
    if model is None and canonical_name(info.encoder) is None:
        raise ConfigError(
            f"{path} names the encoder {quoted(info.encoder)}, which is not a model of this package; if you trust it, "
            "name it yourself with --model"
        )
    return load_dense_model(path, info, tensors, open_tower(model or info.encoder)), info


def load_dense_model(path: Path, info: HeadInfo, tensors: Mapping[str, Tensor], tower: Tower) -> DenseModel:
    """Put a head on its encoder's tower, in eval mode.

    Raises ConfigError, which names both, for a tower with other weights than those it was trained on; CheckpointError
    for weights that do not fit the head's settings.
    """
    if tower.weight_hash != info.weights:
        raise ConfigError(
            f"{path} belongs to {info.encoder}, layer {info.layer}, with weights {info.weights[:12]}; the encoder that "
            f"was given has weights {tower.weight_hash[:12]}"
        )
    try:
        if info.layer >= tower.depth:
            raise ConfigError(f"layer {info.layer} does not exist; {info.encoder} has layers 0 to {tower.depth - 1}")
        _check_shapes(info, tensors, tower.width)
        backbone = Backbone(tower, info.layer, True, info.windows, info.image_size, padded_inputs(info, tower))
        model = DenseModel(backbone, make_head(info, backbone.width))
        whole = tensors if info.finetuned else {**model.state_dict(), **tensors}
        model.load_state_dict({name: each.float() for name, each in whole.items()})
    except (ConfigError, RuntimeError, TypeError, ValueError, OverflowError) as error:  # torch's, for impossible sizes
        raise CheckpointError(f"{path} does not fit its own settings: {one_line(error)}") from None
    return model.train(False).requires_grad_(False)


def _check_shapes(info: HeadInfo, tensors: Mapping[str, Tensor], width: int) -> None:
    """Compare a file's tensors with its settings before memory is taken for them; ConfigError if they differ."""
    with torch.device("meta"):
        expected = {f"head.{name}": each.shape for name, each in make_head(info, width).state_dict().items()}
    own = {name: each.shape for name, each in tensors.items() if name.startswith("head.")}
    if wrong := sorted(name for name in own.keys() | expected.keys() if own.get(name) != expected.get(name)):
        shapes = [tuple(each[wrong[0]]) if wrong[0] in each else "missing" for each in (own, expected)]
        raise ConfigError(f"{wrong[0]} is {shapes[0]} in the file, and {shapes[1]} by its settings")
