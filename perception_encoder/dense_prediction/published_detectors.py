"""Load the detectors that the paper's authors published: Mask R-CNN with ViTDet, and DETA.

They are `mask_rcnn_PE{core,spatial}_G_{coco,lvis}…ep.pth` and `deta_coco_1824pix.pth` of the hub's repository
facebook/PE-Detection, under the Apache-2.0 license by its model card. Their layouts are known from the published code;
the files themselves were not available when this was written.
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
from perception_encoder.dense_prediction.dense_model import (
    Backbone,
    DenseModel,
    HeadInfo,
    InputConfig,
    WindowConfig,
)
from perception_encoder.dense_prediction.detection.detr import DetrHead
from perception_encoder.dense_prediction.detection.mask_rcnn import Detector
from perception_encoder.dense_prediction.published_layouts import KeyRow, coco_classes, load_rows
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.models.checkpoints.layouts import StateDict
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.registry import MODELS
from perception_encoder.models.tower import Tower
from perception_encoder.models.vision_transformer import VisionTransformer


def published_detector(
    path: Path, state: StateDict, classes: Sequence[str | tuple[int, str]] = ()
) -> tuple[DenseModel, HeadInfo]:
    """Load a published detector with its encoder from a file's tensors, in eval mode.

    `classes`: their names, or ids and names; by default COCO's, or their numbers. Raises CheckpointError, which lists
    what does not fit, or names the part that is not supported; ConfigError for another number of names.
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
        f"{path} is neither a detector that `pe train` wrote, nor in the layout of PE-Detection's: it has {listed}, …"
    )


def _vitdet(path: Path, state: StateDict, classes: Sequence[str | tuple[int, str]]) -> tuple[DenseModel, HeadInfo]:
    layouts.check_vitdet(state)
    config, count, masks = layouts.vitdet_config(state)
    ids, names = _categories(path, classes, count)
    tower = describe_backbone(state, layouts.VITDET_PREFIX, layouts.VITDET_WINDOWS, layouts.VITDET_IMAGE_SIZE)
    backbone = tower.build(layouts.VITDET_INPUTS)
    model = DenseModel(backbone, Detector(tower.vision.width, count, masks, config))
    rows = [*tower.rows(backbone), *layouts.vitdet_rows(state, masks)]
    load_rows(model, state, rows, (TABLES, *layouts.VITDET_UNUSED))
    info = HeadInfo(
        task="detection",
        encoder=path.name,
        weights="",
        layer=tower.vision.depth - 1,
        image_size=tower.image_size,
        head=asdict(config),
        classes=names,
        class_ids=ids,
        masks=masks,
        finetuned=True,
        windows=tower.windows,
    )
    return model.train(False).requires_grad_(False), info


def _deta(path: Path, state: StateDict, classes: Sequence[str | tuple[int, str]]) -> tuple[DenseModel, HeadInfo]:
    config, numbered = layouts.deta_config(state)
    ids, names = _categories(path, classes, len(numbered.numbers))
    prefix = layouts.find_prefix(state)
    tower = describe_backbone(state, prefix, layouts.DETA_WINDOWS, layouts.DETA_IMAGE_SIZE)
    backbone = tower.build(layouts.DETA_INPUTS)
    model = DenseModel(backbone, DetrHead(tower.vision.width, len(numbered.numbers), config))
    rows = [*tower.rows(backbone), *layouts.deta_rows(prefix, config.layers, numbered)]
    load_rows(model, state, rows, (TABLES, *layouts.DETA_UNUSED))
    info = HeadInfo(
        task="detr",
        encoder=path.name,
        weights="",
        layer=tower.vision.depth - 1,
        image_size=tower.image_size,
        head=asdict(config),
        classes=names,
        class_ids=ids,
        finetuned=True,
        windows=tower.windows,
    )
    return model.train(False).requires_grad_(False), info


def _categories(
    path: Path, classes: Sequence[str | tuple[int, str]], count: int
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The classes' ids and names."""
    if classes and len(classes) != count:
        raise ConfigError(f"{path} has {count} classes, and {len(classes)} names were given")
    usual = coco_classes()
    known = list(usual.items()) if count == len(usual) else [(number, str(number)) for number in range(1, count + 1)]
    pairs = (
        [(own, each) if isinstance(each, str) else each for (own, _), each in zip(known, classes, strict=True)]
        if classes
        else known
    )
    return tuple(number for number, _ in pairs), tuple(name for _, name in pairs)


TABLES = r"\.(rope|rope_win|rope_glb)\.freqs_(cos|sin)$"
"""Names of the tables, which are computed here."""
POSITIONS = "positional_embedding"
GLOBAL_BLOCKS = {50: (12, 24, 36, 49), 24: (5, 11, 17, 23)}
"""By depth, of files without tables (table 24)."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published detector's tower."""

    vision: VisionConfig
    windows: WindowConfig
    image_size: int
    """Pixels of the square that images are padded to."""
    prefix: str
    """Before the names of its tensors."""

    def build(self, inputs: InputConfig) -> Backbone:
        """Make the backbone, without weights."""
        with torch.device("meta"):
            model = VisionTransformer(self.vision)
            tower = Tower.of(model, "none")
            backbone = Backbone(tower, self.vision.depth - 1, True, self.windows, self.image_size, inputs)
        backbone.mean, backbone.deviation = (
            torch.tensor(each)[:, None, None] for each in (inputs.mean, inputs.deviation)
        )
        backbone.blank = torch.zeros(3, 1, 1)
        return backbone

    def rows(self, backbone: Backbone) -> list[KeyRow]:
        """Return where the tower's tensors go in a detector; their names are those of Lang and Spatial models."""
        names = [name for name in backbone.model.state_dict() if name != POSITIONS]
        rows = [KeyRow(f"backbone.model.{name}", f"{self.prefix}{name}") for name in names]
        return [*rows, KeyRow(f"backbone.model.{POSITIONS}", f"{self.prefix}{POSITIONS}", _without_batch)]


def _without_batch(tensor: Tensor) -> Tensor:
    return tensor.reshape(tensor.shape[-2:])


def describe_backbone(state: StateDict, prefix: str, usual: WindowConfig, image_size: int) -> Published:
    """Describe the tower whose tensors begin with a prefix; `usual`, `image_size`: those of files without tables.

    CheckpointError for a tower that is not PE's, or is not built as PE's detectors are.
    """
    own = {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}
    for name in ("conv1.weight", POSITIONS, "transformer.resblocks.0.mlp.c_fc.weight"):
        if name not in own:
            raise CheckpointError(f"missing {prefix}{name}; only towers of Perception Encoder are supported")
    width, _, patch, _ = own["conv1.weight"].shape
    positions = own[POSITIONS].shape[-2]
    grid = math.isqrt(positions)
    depth = 1 + max(int(match[1]) for name in own if (match := re.match(r"transformer\.resblocks\.(\d+)\.", name)))
    windows, heads = usual, _usual_heads(width, depth)
    if "rope_win.freqs_cos" in own and "rope_glb.freqs_cos" in own:
        windows, heads, image_size = _read_tables(own, depth, width, patch)
    elif heads is None or depth not in GLOBAL_BLOCKS:
        raise CheckpointError(
            f"there is no {prefix}rope_win.freqs_cos, and no model of width {width} and depth {depth} is known: the "
            "number of its heads and its windows cannot be told"
        )
    else:
        windows = WindowConfig(size=usual.size, global_blocks=GLOBAL_BLOCKS[depth], patch_size=patch, span=usual.span)
    vision = VisionConfig(
        image_size=grid * patch,
        patch_size=patch,
        width=width,
        depth=depth,
        heads=heads,
        mlp_width=len(own["transformer.resblocks.0.mlp.c_fc.weight"]),
        class_token=grid**2 != positions,
        attention_pool=False,
        final_norm=False,
        layer_scale=0.1 if "transformer.resblocks.0.ls_1.gamma" in own else None,
    )
    return Published(vision=vision, windows=windows, image_size=image_size, prefix=prefix)


def _usual_heads(width: int, depth: int) -> int | None:
    sizes = {(entry.vision.width, entry.vision.depth): entry.vision.heads for entry in MODELS.values()}
    return sizes.get((width, depth))


def _read_tables(own: StateDict, depth: int, width: int, patch: int) -> tuple[WindowConfig, int, int]:
    """Windows, the number of heads and the image size, by the rotary positions of windows and of the whole grid."""
    window, whole = own["rope_win.freqs_cos"], own["rope_glb.freqs_cos"]
    size, side = math.isqrt(len(window)), math.isqrt(len(whole))
    steps = [_step(own[f"{name}.freqs_cos"], own.get(f"{name}.freqs_sin")) for name in ("rope_win", "rope_glb")]
    span = round(steps[0] * size)
    if abs(steps[0] * size - span) > 0.01 or abs(steps[1] * side - span) > 0.01:
        raise CheckpointError(
            f"rotary positions of windows span {steps[0] * size:.2f}, those of the whole image {steps[1] * side:.2f}; "
            "only equal whole numbers are supported"
        )
    names = [f"transformer.resblocks.{number}.attn.rope.freqs_cos" for number in range(depth)]
    if all(name in own for name in names):
        wide = [number for number, name in enumerate(names) if len(own[name]) == len(whole) != len(window)]
        everywhere = tuple(wide)
    elif depth in GLOBAL_BLOCKS:
        everywhere = GLOBAL_BLOCKS[depth]
    else:
        raise CheckpointError(f"missing {names[0]}, and no model of depth {depth} is known: windows cannot be told")
    config = WindowConfig(size=size, global_blocks=everywhere, patch_size=patch, span=span)
    return config, width // window.shape[1], side * patch


def _step(cosines: Tensor, sines: Tensor | None) -> float:
    """From a patch's position to the next one's, by the first channel, which turns by the position itself."""
    if sines is None or len(cosines) < 2:
        raise CheckpointError("the tables of rotary positions need cosines and sines of two patches")
    angles = torch.atan2(sines[:2, 0].double(), cosines[:2, 0].double())
    return float((angles[1] - angles[0]) % (2 * math.pi))
