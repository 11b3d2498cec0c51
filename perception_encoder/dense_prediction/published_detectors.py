"""Load the detectors that the paper's authors published: Mask R-CNN with ViTDet, and DETA.

They are `mask_rcnn_PE{core,spatial}_G_{coco,lvis}…ep.pth` and `deta_coco_1824pix.pth` in the hub's repository
facebook/PE-Detection, under Apache-2.0 by its model card. The layouts follow the published code; the files were not
available when this was written. A tower's sizes are read from its weights and its tables of rotary positions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from perception_encoder.dense_prediction import published_layouts as layouts
from perception_encoder.dense_prediction.dense_model import Backbone, DenseModel, HeadInfo, InputConfig, WindowConfig
from perception_encoder.dense_prediction.detection.detr import DetrHead
from perception_encoder.dense_prediction.detection.mask_rcnn import Detector
from perception_encoder.dense_prediction.published_layouts import KeyRow, coco_classes, load_rows
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.models.checkpoints.layouts import StateDict
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.registry import MODELS
from perception_encoder.models.tower import Tower
from perception_encoder.models.vision_transformer import VisionTransformer

TABLES = r"\.(rope|rope_win|rope_glb)\.freqs_(cos|sin)$"
"""Names of the tables that are computed here."""
POSITIONS = "positional_embedding"
GLOBAL_BLOCKS = {50: (12, 24, 36, 49), 24: (5, 11, 17, 23)}
"""Global blocks by depth, for files without tables (table 24)."""


def published_detector(
    path: Path, state: StateDict, classes: Sequence[str | tuple[int, str]] = ()
) -> tuple[DenseModel, HeadInfo]:
    """Make a published detector with its encoder from a file's tensors, in eval mode.

    `classes`: their names, or ids and names; by default COCO's, or numbers. Raises CheckpointError, which lists the
    misfits or names the unsupported part, and ConfigError for another number of names.
    """
    try:
        if "transformer.level_embed" in state:
            return _deta(path, state, classes)
        if any(name.startswith(("roi_heads.", "proposal_generator.")) for name in state):
            return _vitdet(path, state, classes)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    listed = ", ".join(list(state)[:3])
    raise CheckpointError(
        f"{path} is neither a detector written by `pe train` nor one in PE-Detection's layout: it has {listed}, …"
    )


def _vitdet(path: Path, state: StateDict, classes: Sequence[str | tuple[int, str]]) -> tuple[DenseModel, HeadInfo]:
    layouts.check_vitdet(state)
    config, count, masks = layouts.vitdet_config(state)
    tower = describe_backbone(state, layouts.VITDET_PREFIX, layouts.VITDET_WINDOWS, layouts.VITDET_IMAGE_SIZE)
    info = _describe("detection", path, tower, asdict(config), classes, count, masks)
    backbone = tower.build(layouts.VITDET_INPUTS)
    model = DenseModel(backbone, Detector(tower.vision.width, count, masks, config))
    rows = [*tower.rows(backbone), *layouts.vitdet_rows(state, masks)]
    load_rows(model, state, rows, (TABLES, *layouts.VITDET_UNUSED))
    return model.train(False).requires_grad_(False), info


def _deta(path: Path, state: StateDict, classes: Sequence[str | tuple[int, str]]) -> tuple[DenseModel, HeadInfo]:
    config, numbered = layouts.deta_config(state)
    count, prefix = len(numbered.numbers), layouts.find_prefix(state)
    tower = describe_backbone(state, prefix, layouts.DETA_WINDOWS, layouts.DETA_IMAGE_SIZE)
    info = _describe("detr", path, tower, asdict(config), classes, count, masks=False)
    backbone = tower.build(layouts.DETA_INPUTS)
    model = DenseModel(backbone, DetrHead(tower.vision.width, count, config))
    rows = [*tower.rows(backbone), *layouts.deta_rows(prefix, config.layers, numbered)]
    load_rows(model, state, rows, (TABLES, *layouts.DETA_UNUSED))
    return model.train(False).requires_grad_(False), info


@dataclass(frozen=True, kw_only=True)
class PublishedTower:
    """The tower of a published detector."""

    vision: VisionConfig
    windows: WindowConfig
    image_size: int
    """Pixels of the square that images are padded to."""
    prefix: str
    """Prefix of its tensors' names."""

    def build(self, inputs: InputConfig) -> Backbone:
        """Make the backbone, without weights."""
        with torch.device("meta"):
            tower = Tower.of(VisionTransformer(self.vision), "none")
            backbone = Backbone(tower, self.vision.depth - 1, True, self.windows, self.image_size, inputs)
        backbone.mean = torch.tensor(inputs.mean)[:, None, None]
        backbone.deviation = torch.tensor(inputs.deviation)[:, None, None]
        backbone.blank = torch.zeros(3, 1, 1)
        return backbone

    def rows(self, backbone: Backbone) -> list[KeyRow]:
        """Return how the tower's tensors map to ours; their names are those of Lang and Spatial models."""
        names = [name for name in backbone.model.state_dict() if name != POSITIONS]
        rows = [KeyRow(f"backbone.model.{name}", f"{self.prefix}{name}") for name in names]
        return [*rows, KeyRow(f"backbone.model.{POSITIONS}", f"{self.prefix}{POSITIONS}", _without_batch)]


def _without_batch(tensor: Tensor) -> Tensor:
    return tensor.reshape(tensor.shape[-2:])


def _describe(
    task: str,
    path: Path,
    tower: PublishedTower,
    head: dict[str, object],
    classes: Sequence[str | tuple[int, str]],
    count: int,
    masks: bool,
) -> HeadInfo:
    """Describe a detector of `count` classes."""
    if classes and len(classes) != count:
        raise ConfigError(f"{path} has {count} classes, and {len(classes)} names were given")
    usual = coco_classes()
    known = list(usual.items()) if count == len(usual) else [(number, str(number)) for number in range(1, count + 1)]
    given = zip(known, classes or known, strict=True)
    categories = [(number, item) if isinstance(item, str) else item for (number, _), item in given]
    return HeadInfo(
        task=task,
        encoder=path.name,
        weights="",
        layer=tower.vision.depth - 1,
        image_size=tower.image_size,
        head=head,
        classes=tuple(name for _, name in categories),
        class_ids=tuple(number for number, _ in categories),
        masks=masks,
        finetuned=True,
        windows=tower.windows,
    )


def describe_backbone(state: StateDict, prefix: str, usual: WindowConfig, image_size: int) -> PublishedTower:
    """Describe the tower with tensors under `prefix`; `usual`, `image_size`: for files without tables.

    CheckpointError for a tower that is not PE's, or is not built as in PE's detectors.
    """
    tensors = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    for name in ("conv1.weight", POSITIONS, "transformer.resblocks.0.mlp.c_fc.weight"):
        if name not in tensors:
            raise CheckpointError(f"missing {prefix}{name}; only towers of Perception Encoder are supported")
    width, _, patch, _ = tensors["conv1.weight"].shape
    positions = tensors[POSITIONS].shape[-2]
    grid = math.isqrt(positions)
    depth = 1 + max(int(match[1]) for name in tensors if (match := re.match(r"transformer\.resblocks\.(\d+)\.", name)))
    heads = {(entry.vision.width, entry.vision.depth): entry.vision.heads for entry in MODELS.values()}
    if "rope_win.freqs_cos" in tensors and "rope_glb.freqs_cos" in tensors:
        windows, head_count, image_size = _read_tables(tensors, depth, width, patch)
    elif (width, depth) not in heads or depth not in GLOBAL_BLOCKS:
        raise CheckpointError(
            f"{prefix}rope_win.freqs_cos is missing, and no known model has width {width} and depth {depth}, so the "
            "number of heads and the windows are unknown"
        )
    else:
        head_count = heads[width, depth]
        windows = WindowConfig(size=usual.size, global_blocks=GLOBAL_BLOCKS[depth], patch_size=patch, span=usual.span)
    vision = VisionConfig(
        image_size=grid * patch,
        patch_size=patch,
        width=width,
        depth=depth,
        heads=head_count,
        mlp_width=len(tensors["transformer.resblocks.0.mlp.c_fc.weight"]),
        class_token=grid**2 != positions,
        attention_pool=False,
        final_norm=False,
        layer_scale=0.1 if "transformer.resblocks.0.ls_1.gamma" in tensors else None,
    )
    return PublishedTower(vision=vision, windows=windows, image_size=image_size, prefix=prefix)


def _read_tables(tensors: StateDict, depth: int, width: int, patch: int) -> tuple[WindowConfig, int, int]:
    """Read the windows, the number of heads and the image size from the tables of rotary positions."""
    window, whole = tensors["rope_win.freqs_cos"], tensors["rope_glb.freqs_cos"]
    size, side = math.isqrt(len(window)), math.isqrt(len(whole))
    steps = [_step(tensors[f"{name}.freqs_cos"], tensors.get(f"{name}.freqs_sin")) for name in ("rope_win", "rope_glb")]
    span = round(steps[0] * size)
    if abs(steps[0] * size - span) > 0.01 or abs(steps[1] * side - span) > 0.01:
        raise CheckpointError(
            f"rotary positions of windows span {steps[0] * size:.2f}, those of the whole image {steps[1] * side:.2f}; "
            "only equal whole numbers are supported"
        )
    names = [f"transformer.resblocks.{number}.attn.rope.freqs_cos" for number in range(depth)]
    if all(name in tensors for name in names):
        lengths = [len(tensors[name]) for name in names]
        blocks = tuple(number for number, count in enumerate(lengths) if count == len(whole) != len(window))
    elif depth in GLOBAL_BLOCKS:
        blocks = GLOBAL_BLOCKS[depth]
    else:
        raise CheckpointError(f"missing {names[0]}, and no known model has depth {depth}, so the windows are unknown")
    config = WindowConfig(size=size, global_blocks=blocks, patch_size=patch, span=span)
    return config, width // window.shape[1], side * patch


def _step(cosines: Tensor, sines: Tensor | None) -> float:
    """Return the distance between two patches' positions, from the first channel, which rotates by the position."""
    if sines is None or len(cosines) < 2:
        raise CheckpointError("the tables of rotary positions need cosines and sines of two patches")
    angles = torch.atan2(sines[:2, 0].double(), cosines[:2, 0].double())
    return float((angles[1] - angles[0]) % (2 * math.pi))
