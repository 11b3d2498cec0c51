"""Heads on one layer of a tower, for depth, classes of pixels or objects, and their files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from perception_encoder.dense_prediction.depth import DepthHead, DepthHeadConfig
from perception_encoder.dense_prediction.detection.detr import DetrHead, DetrHeadConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import PATCH, Detector, DetectorHeadConfig
from perception_encoder.dense_prediction.head_fitting import Standardize
from perception_encoder.dense_prediction.segmentation import SegmentationHead, SegmentationHeadConfig
from perception_encoder.dense_prediction.vitdet import ViTDetBackbone, WindowConfig, vitdet_backbone
from perception_encoder.errors import CheckpointError, ConfigError, one_line
from perception_encoder.models.checkpoints.files import write_tensors
from perception_encoder.models.initialization import drawn_from
from perception_encoder.models.registry import BUILTIN_DEPTH
from perception_encoder.models.tower import Tower
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.image import ImageTransform
from perception_encoder.records import Checked, Range, from_fields, parse_json
from perception_encoder.transfer import to_device

HeadConfig = DepthHeadConfig | SegmentationHeadConfig | DetectorHeadConfig | DetrHeadConfig
Head = DepthHead | SegmentationHead | Detector | DetrHead
TASKS: Mapping[str, type[HeadConfig]] = {
    "depth": DepthHeadConfig,
    "segmentation": SegmentationHeadConfig,
    "detection": DetectorHeadConfig,
    "detr": DetrHeadConfig,
}
METADATA = "perception_encoder_head"  # metadata field of a file that describes the head
Side = Annotated[int, Range(at_least=1, at_most=4096)]
"""Pixels of `image_size`: 1824 in the paper's largest detector."""


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """The input of a detector: images padded on the right and below to a square."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]  # of each channel, as the mean, for values from 0 to 1
    margin: int = 0  # pixels of the square's side that stay empty
    padding: tuple[int, int, int] | None = None  # the padding pixel; by default exactly the mean


@dataclass(frozen=True, kw_only=True)
class HeadInfo(Checked):
    """Description of a head and its encoder."""

    task: str
    encoder: str
    weights: str
    """Hash of the encoder's weights before any finetuning."""
    layer: Annotated[int, Range(at_least=0, at_most=1000)]
    """0-based."""
    image_size: Side
    """Pixels of an image's longer side at the encoder's input."""
    head: dict[str, Any]
    """The fields of its config: see `TASKS`."""
    classes: tuple[str, ...] = ()
    class_ids: tuple[int, ...] = ()
    """The classes' ids in the dataset (COCO's have gaps); by default counted from 1."""
    relative: bool = False
    """Depth is relative, not in metres."""
    padded: bool = False
    """Images are padded to a square on the right and below, as in training (unlike the built-in detector)."""
    masks: bool = False
    finetuned: bool = False
    """The file includes the encoder's weights."""
    windows: WindowConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.class_ids) not in (0, len(self.classes)):
            raise ConfigError(f"class_ids has {len(self.class_ids)} entries; there are {len(self.classes)} classes")

    @property
    def categories(self) -> list[dict[str, Any]]:
        ids = self.class_ids or range(1, len(self.classes) + 1)
        return [{"id": number, "name": name} for number, name in zip(ids, self.classes, strict=True)]


class Backbone(nn.Module):
    """Images (B, 3, H, W), uint8, to the feature map of one layer of any library's tower."""

    mean: Tensor
    deviation: Tensor
    blank: Tensor
    """The normalized padding pixel."""

    def __init__(
        self,
        tower: Tower,
        layer: int,
        frozen: bool,
        windows: WindowConfig | None = None,
        image_size: int = 0,
        inputs: InputConfig | None = None,
    ) -> None:
        """Take a tower apart after a layer (0-based); later blocks of this package's towers are dropped, in place.

        A frozen tower takes no gradient and stays in eval mode. `windows`: ConfigError for another library's tower.
        `inputs`: pad images to squares of `image_size` pixels, or larger if needed.
        """
        super().__init__()
        self.patch_size, self.width = tower.patch_size, tower.width
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
            self.model = truncated = tower.model.truncate(layer)
            if windows is not None:
                if windows.tile is not None:
                    truncated.set_image_size(windows.tile * truncated.config.patch_size)
                self.model = vitdet_backbone(truncated, image_size, windows)
                self.patch_size = windows.patch_size
        elif windows is not None:
            raise ConfigError("windows need a model of this package; set windows=null for another library's")
        self.model.requires_grad_(not frozen)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        if isinstance(self.model, VisionTransformer | ViTDetBackbone):
            self.model.transformer.checkpointing = enable
        elif enable:
            raise ConfigError("checkpointing needs a model of this package; set parallel.checkpointing=false")

    def freeze_unused(self) -> None:
        """Freeze parameters that the layer does not depend on, such as those of later blocks."""
        side, device = self.image_size, next(self.parameters()).device
        self(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)).sum().backward()
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        if self.frozen:
            self.model.train(False)
        return self

    def forward(
        self, images: UInt8[Tensor, "B 3 H W"], branches: Float[Tensor, "L 2 B"] | None = None
    ) -> Float[Tensor, "B h w D"]:
        """Return the layer's patch tokens as a map; H and W are multiples of the patch, unless images are padded here.

        `branches`: factors of the residual branches, drawn by `drop_path`; other libraries' towers ignore them.
        """
        scaled = (images.float() / 255 - self.mean) / self.deviation
        if self.inputs is not None:
            height, width = scaled.shape[-2:]
            side = max(self.image_size, -(-max(height, width) // (2 * self.patch_size)) * 2 * self.patch_size)
            padded = self.blank.expand(len(scaled), 3, side, side).clone()
            padded[..., :height, :width] = scaled
            scaled = padded
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

    @classmethod
    def of(cls, info: HeadInfo, tower: Tower, frozen: bool = True, generator: torch.Generator | None = None) -> Self:
        """Put a head with random weights on an encoder's tower; `generator`: by default torch's global one."""
        inputs = InputConfig(mean=tower.mean, deviation=tower.deviation, padding=tower.padding)
        backbone = Backbone(tower, info.layer, frozen, info.windows, info.image_size, inputs if info.padded else None)
        with nullcontext() if generator is None else drawn_from(generator):
            return cls(backbone, make_head(info, backbone.width))

    def standardize(self, maps: Float[np.ndarray, "n h w D"]) -> None:
        """Standardise the head's input over maps."""
        (standardize,) = [module for module in self.modules() if isinstance(module, Standardize)]
        standardize.measure(maps)

    def forward(
        self, images: UInt8[Tensor, "B 3 H W"], *arguments: Any, branches: Float[Tensor, "L 2 B"] | None = None
    ) -> Any:
        """Return the head's output for the images' map; `arguments`: those of the head; `branches`: see `Backbone`."""
        return self.head(self.backbone(images, branches), *arguments)

    @torch.no_grad()
    def map_of(self, image: Image.Image, image_size: int) -> Float[Tensor, "1 h w D"]:
        """Return the map of an image, resized so that the longer side is `image_size` and the other whole patches.

        Padded images are scaled to whole pixels.
        """
        pixels = ImageTransform(self._sides(image.size, image_size)).pixels(image)
        return self.backbone(to_device(torch.from_numpy(pixels[None]), next(self.parameters()).device))

    def valid_sizes(self, size: tuple[int, int], image_size: int) -> list[tuple[float, float]] | None:
        """Return the `valid_sizes` of an image of `size` (width, height) for a detector."""
        if self.backbone.inputs is None:
            return None
        height, width = (side * PATCH / self.backbone.patch_size for side in self._sides(size, image_size))
        return [(height, width)]

    def _sides(self, size: tuple[int, int], image_size: int) -> tuple[int, int]:
        patch, inputs = self.backbone.patch_size, self.backbone.inputs
        if inputs is None:
            width, height = (max(1, round(side * image_size / max(size) / patch)) * patch for side in size)
        else:
            scale = (image_size - inputs.margin) / max(size)
            width, height = (max(1, int(side * scale + 0.5)) for side in size)
        return height, width


def make_head(info: HeadInfo, width: int) -> Head:
    """Make a head with random weights; ConfigError for an unknown task or unsuitable settings."""
    if info.task not in TASKS:
        raise ConfigError(f"a head for {info.task!r} is unknown; known: {', '.join(TASKS)}")
    try:
        config = from_fields(TASKS[info.task], info.head)
    except ValueError as error:
        raise ConfigError(f"the head's settings do not fit its task, {info.task}: {error}") from None
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
    copies = {
        name: tensor.to(torch.float16 if half and tensor.is_floating_point() else tensor.dtype, copy=True).contiguous()
        for name, tensor in model.state_dict().items()
        if info.finetuned or name.startswith("head.")
    }
    write_tensors(copies, path, {METADATA: json.dumps(dataclasses.asdict(info))})


def head_info(path: Path, metadata: Mapping[str, str], task: str | None = None) -> HeadInfo:
    """Parse the description of a head in a file's metadata.

    Raises CheckpointError if it is missing or damaged, and ConfigError for a head for another task. A DETR's task is
    detection.
    """
    if METADATA not in metadata:
        raise CheckpointError(f"{path} is not a head file, as written by `pe train` depth, segmenter or detector")
    try:
        info = parse_json(metadata[METADATA], HeadInfo)
    except ValueError as error:
        raise CheckpointError(
            f"{path}: the description of the head is damaged ({one_line(error)}); train or download the head again"
        ) from None
    if path.name == f"{BUILTIN_DEPTH}.safetensors":
        info = dataclasses.replace(info, relative=True)  # the published file does not say so
    if task not in (None, info.task) and (info.task, task) != ("detr", "detection"):
        raise ConfigError(f"{path} is a head for {info.task}, not for {task}")
    return info


def load_dense_model(path: Path, info: HeadInfo, tensors: Mapping[str, Tensor], tower: Tower) -> DenseModel:
    """Put a head on its encoder's tower, in eval mode.

    Raises ConfigError for a tower with other weights than the head was trained on, and CheckpointError for weights that
    do not fit the head's settings.
    """
    if tower.weight_hash != info.weights:
        raise ConfigError(
            f"{path} belongs to {info.encoder}, layer {info.layer}, with weights {info.weights[:12]}; the given "
            f"encoder has weights {tower.weight_hash[:12]}"
        )
    try:
        if info.layer >= tower.depth:
            raise ConfigError(f"layer {info.layer} does not exist; {info.encoder} has layers 0 to {tower.depth - 1}")
        _check_shapes(info, tensors, tower.width)
        model = DenseModel.of(info, tower)
        whole = tensors if info.finetuned else {**model.state_dict(), **tensors}
        model.load_state_dict({name: tensor.float() for name, tensor in whole.items()})
    except (ConfigError, RuntimeError, TypeError, ValueError, OverflowError) as error:  # torch's, for impossible sizes
        raise CheckpointError(f"{path} does not fit its own settings: {one_line(error)}") from None
    return model.train(False).requires_grad_(False)


def _check_shapes(info: HeadInfo, tensors: Mapping[str, Tensor], width: int) -> None:
    """Compare a file's tensors with its settings before allocating memory; ConfigError if they differ."""
    with torch.device("meta"):
        expected = {f"head.{name}": tensor.shape for name, tensor in make_head(info, width).state_dict().items()}
    found = {name: tensor.shape for name, tensor in tensors.items() if name.startswith("head.")}
    if wrong := sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)):
        shapes = [tuple(known[wrong[0]]) if wrong[0] in known else "missing" for known in (found, expected)]
        raise ConfigError(f"{wrong[0]} is {shapes[0]} in the file, and {shapes[1]} by its settings")
