"""Load the detectors that the paper's authors published: Mask R-CNN with ViTDet, and DETA.

They are `mask_rcnn_PE{core,spatial}_G_{coco,lvis}…ep.pth` and `deta_coco_1824pix.pth` in the hub's repository
facebook/PE-Detection, under Apache-2.0 by its model card. The layouts follow the published code; the files were not
available when this was written, so the stored tables of rotary positions are compared with ours.

ViTDet's Mask R-CNN is stored as by detectron2, whose last class is the background; torchvision's first is, with a box
and a mask that are never used. DETA numbers classes by COCO's ids, which have gaps; only the first row of its last
class layer is used: it scores proposals of any class.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from perception_encoder.dense_prediction.dense_model import METADATA, Backbone, DenseModel, HeadInfo, InputConfig
from perception_encoder.dense_prediction.detection.detr import DetrHead, DetrHeadConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import Detector, DetectorHeadConfig
from perception_encoder.dense_prediction.detection.roi_heads import CONVOLUTIONS
from perception_encoder.dense_prediction.vitdet import WindowConfig
from perception_encoder.errors import CheckpointError, ConfigError, needs_extra
from perception_encoder.models.checkpoints.files import read_checkpoint
from perception_encoder.models.checkpoints.layouts import StateDict
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.layers import rope_table
from perception_encoder.models.registry import MODELS
from perception_encoder.models.tower import Tower
from perception_encoder.models.vision_transformer import VisionTransformer

LISTED = 12  # maximum number of mismatches that an error lists
DEFAULTS = re.compile(r"\.standardize\.(mean|deviation)$|\.class_weights$")
"""Our tensors that published detectors may lack: the defaults do not change detections."""
TABLES = r"\.(rope|rope_win|rope_glb)\.freqs_(cos|sin)$"
"""Names of the tables that are computed here."""
VITDET_UNUSED = (r"^pixel_(mean|std)$", r"^proposal_generator\.anchor_generator\.cell_anchors\.")
DETA_UNUSED = (r"^transformer\.decoder\.(bbox|class)_embed\.", r"\.?total_(ops|params)$")
"""Copies of the same tensors."""
FEDERATED = "roi_heads.box_predictor.fed_loss_cls_weights"
LVIS = 1203  # classes of LVIS, which are scored by sigmoids
COCO_NUMBERS = 91  # one more than COCO's highest id
Categories = Sequence[tuple[int, str]]  # ids and names of classes
Rows = dict[str, tuple[str, Callable[[Tensor], Tensor]]]
"""By our tensors: the published one, and its conversion."""


@dataclass(frozen=True, kw_only=True)
class PublishedTower:
    """The settings of a tower that its file lacks."""

    vision: VisionConfig = MODELS["PE-Spatial-G14-448"].vision  # PE-Core-G differs only in what a file shows
    windows: WindowConfig
    image_size: int  # pixels of the square that images are padded to
    inputs: InputConfig


VITDET = PublishedTower(
    windows=WindowConfig(), image_size=1024, inputs=InputConfig(mean=(127 / 255,) * 3, deviation=(127 / 255,) * 3)
)
DETA = PublishedTower(
    windows=WindowConfig(size=24, span=16),
    image_size=1824,
    inputs=InputConfig(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225), margin=32),
)
"""ImageNet's values, by mistake: PE's are 0.5. The 16 rotary positions are a mistake, too."""


def published_detector(path: Path, state: StateDict, classes: Categories = ()) -> tuple[DenseModel, HeadInfo]:
    """Make a published detector with its encoder from a file's tensors, in eval mode.

    `classes`: by default COCO's, or numbers. Raises CheckpointError, which lists the mismatches, and ConfigError for
    another number of classes.
    """
    try:
        if "transformer.level_embed" in state:
            return _load_deta(path, state, classes)
        if any(name.startswith(("roi_heads.", "proposal_generator.")) for name in state):
            return _load_vitdet(path, state, classes)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    listed = ", ".join(list(state)[:3])
    raise CheckpointError(
        f"{path} is neither a detector written by `pe train` nor one in PE-Detection's layout: it has {listed}, …"
    )


def read_head_state(path: Path) -> StateDict:
    """Read the tensors of a head's file, or of a published detector; CheckpointError for any other."""
    tensors, metadata = read_checkpoint(path)
    return tensors if METADATA in metadata else dict(published_detector(path, tensors)[0].state_dict())


def _load_vitdet(path: Path, state: StateDict, classes: Categories) -> tuple[DenseModel, HeadInfo]:
    needed = ("backbone.simfp_4.0.weight", "roi_heads.box_head.fc1.weight", "roi_heads.box_predictor.cls_score.weight")
    channels, hidden, scored = (len(tensor) for tensor in _require(state, *needed))
    sigmoids, masks = FEDERATED in state or scored - 1 == LVIS, "roi_heads.mask_head.predictor.weight" in state
    config = DetectorHeadConfig(
        vitdet=True,
        channels=channels,
        hidden=hidden,
        regions=512,
        federated=50 if sigmoids else None,
        least_score=0.02 if sigmoids else 0.05,
        most=300 if sigmoids else 100,
    )
    info = _describe("detection", path, VITDET, asdict(config), classes, scored - 1, masks)
    backbone, rows = _load_tower(state, "backbone.net.", VITDET)
    model = DenseModel(backbone, Detector(backbone.width, scored - 1, masks, config))
    load_rows(model, state, rows | _vitdet_rows(state, masks), VITDET_UNUSED)
    return model.train(False).requires_grad_(False), info


def _load_deta(path: Path, state: StateDict, classes: Categories) -> tuple[DenseModel, HeadInfo]:
    needed = ("transformer.level_embed", "transformer.encoder.layers.0.linear1.weight", "class_embed.0.weight")
    embed, hidden, scored = _require(state, *needed)
    if len(scored) != COCO_NUMBERS:
        raise CheckpointError(f"{needed[-1]} has {len(scored)} rows; only COCO's {COCO_NUMBERS} are supported")
    layers = sum(
        re.fullmatch(r"transformer\.encoder\.layers\.\d+\.linear1\.weight", name) is not None for name in state
    )
    config = DetrHeadConfig(channels=embed.shape[1], layers=layers, hidden=len(hidden), least_score=0.0)
    end, numbers = "conv1.weight", list(coco_classes())
    prefixes = [name.removesuffix(end) for name in state if name.startswith("backbone.0.") and name.endswith(end)]
    if len(prefixes) != 1:
        raise CheckpointError(f"found {len(prefixes)} tensors backbone.0.….{end}; a detector has one")
    info = _describe("detr", path, DETA, asdict(config), classes, len(numbers), masks=False)
    backbone, rows = _load_tower(state, prefixes[0], DETA)
    model = DenseModel(backbone, DetrHead(backbone.width, len(numbers), config))
    load_rows(model, state, rows | _deta_rows(prefixes[0], layers, numbers), DETA_UNUSED)
    return model.train(False).requires_grad_(False), info


def _require(state: StateDict, *names: str) -> list[Tensor]:
    if missing := [name for name in names if name not in state]:
        raise CheckpointError(f"missing {', '.join(missing)}")
    return [state[name] for name in names]


def _describe(
    task: str, path: Path, tower: PublishedTower, head: dict[str, object], classes: Categories, count: int, masks: bool
) -> HeadInfo:
    if classes and len(classes) != count:
        raise ConfigError(f"{path} has {count} classes, and {len(classes)} names were given")
    coco = coco_classes()
    categories = classes or (
        list(coco.items()) if count == len(coco) else [(number, str(number)) for number in range(1, count + 1)]
    )
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


def _load_tower(state: StateDict, prefix: str, tower: PublishedTower) -> tuple[Backbone, Rows]:
    """Make the backbone, without weights, and the rows of its tensors, whose names are those of Spatial models.

    CheckpointError for other rotary positions than ours.
    """
    table, patch = f"{prefix}positional_embedding", tower.windows.patch_size
    (positions,) = _require(state, table)
    grid = math.isqrt(positions.shape[-2])
    vision = replace(
        tower.vision,
        patch_size=patch,
        image_size=grid * patch,
        class_token=grid**2 != positions.shape[-2],
        layer_scale=0.1 if f"{prefix}transformer.resblocks.0.ls_1.gamma" in state else None,
    )
    size, whole, span = tower.windows.size, tower.image_size // patch, tower.windows.span or tower.windows.size
    sides = {"rope_win": size, "rope_glb": whole}
    for number in range(vision.depth):
        sides[f"transformer.resblocks.{number}.attn.rope"] = whole if number in tower.windows.global_blocks else size
    for name, side in sides.items():
        cosines, sines = (state.get(f"{prefix}{name}.freqs_{part}") for part in ("cos", "sin"))
        if cosines is None or sines is None:
            continue
        turned = cosines.float() * cosines[:1] + sines.float() * sines[:1]  # positions may begin at 0 or at 1
        expected = rope_table((side, side), vision.width // vision.heads, False, torch.device("cpu"), span / side)[0]
        if turned.shape != expected.shape or not torch.allclose(turned, expected, atol=0.01):
            raise CheckpointError(f"{prefix}{name} has other rotary positions than those of {side}x{side} patches")
    with torch.device("meta"):
        model = Tower.of(VisionTransformer(vision), "none")
        backbone = Backbone(model, vision.depth - 1, True, tower.windows, tower.image_size, tower.inputs)
    backbone.mean = torch.tensor(tower.inputs.mean)[:, None, None]
    backbone.deviation = torch.tensor(tower.inputs.deviation)[:, None, None]
    backbone.blank = torch.zeros(3, 1, 1)
    rows: Rows = {f"backbone.model.{name}": (f"{prefix}{name}", _same) for name in backbone.model.state_dict()}
    rows["backbone.model.positional_embedding"] = table, lambda tensor: tensor.reshape(tensor.shape[-2:])
    return backbone, rows


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _rows_of(
    modules: Mapping[str, str], parts: Sequence[str] = ("weight", "bias"), convert: Callable[[Tensor], Tensor] = _same
) -> Rows:
    return {f"{ours}.{part}": (f"{published}.{part}", convert) for ours, published in modules.items() for part in parts}


def load_rows(model: nn.Module, state: StateDict, rows: Rows, unused: Iterable[str]) -> None:
    """Load published tensors as float32, without a copy where possible.

    `unused`: patterns of names that need no row. CheckpointError that lists tensors that are missing, unexpected, or of
    another shape.
    """
    expected, tensors, problems = model.state_dict(), StateDict(), list[str]()
    for ours, (published, convert) in rows.items():
        if published not in state:
            problems.append(f"missing {published}")
        else:
            tensors[ours] = convert(state[published])
            if tensors[ours].shape != expected[ours].shape:
                shapes = tuple(tensors[ours].shape), tuple(expected[ours].shape)
                problems.append(f"{published} becomes {shapes[0]}; it must become {shapes[1]}")
    known, patterns = {published for published, _ in rows.values()}, [re.compile(name) for name in (TABLES, *unused)]
    for name in state:
        if name not in known and not any(pattern.search(name) for pattern in patterns):
            problems.append(f"unexpected {name} {tuple(state[name].shape)}")
    if problems:
        more = [f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        raise CheckpointError("\n  ".join(["these weights do not fit:", *problems[:LISTED], *more]))
    defaults = {name: tensor for name, tensor in expected.items() if DEFAULTS.search(name)}
    model.load_state_dict({**defaults, **{name: tensor.float() for name, tensor in tensors.items()}}, assign=True)


def _vitdet_rows(state: StateDict, masks: bool) -> Rows:
    levels, rpn, heads = "head.model.backbone.levels", "head.model.rpn.head", "head.model.roi_heads"
    modules = {
        f"{levels}.0.0.0": "backbone.simfp_2.0",
        f"{levels}.0.0.1.norm": "backbone.simfp_2.1",
        f"{levels}.0.0.3": "backbone.simfp_2.3",
        f"{levels}.1.0": "backbone.simfp_3.0",
        f"{rpn}.conv.0.0": "proposal_generator.rpn_head.conv.conv0",
        f"{rpn}.conv.1.0": "proposal_generator.rpn_head.conv.conv1",
        f"{rpn}.cls_logits": "proposal_generator.rpn_head.objectness_logits",
        f"{rpn}.bbox_pred": "proposal_generator.rpn_head.anchor_deltas",
        f"{heads}.box_head.{CONVOLUTIONS + 1}": "roi_heads.box_head.fc1",  # after a flattening
    }
    convolutions = {}  # without a bias, followed by a norm
    for level, first in enumerate((4, 1, 0, 1)):  # `first`: the number of the level's first convolution there
        for number in (0, 1):
            published = f"backbone.simfp_{level + 2}.{first + number}"
            convolutions[f"{levels}.{level}.{1 + 2 * number}"] = published
            modules[f"{levels}.{level}.{2 + 2 * number}.norm"] = f"{published}.norm"
    scores, boxes = "box_predictor.cls_score", "box_predictor.bbox_pred"
    rows = _rows_of(
        {f"{heads}.{scores}": f"roi_heads.{scores}"}, convert=lambda tensor: torch.cat([tensor[-1:], tensor[:-1]])
    )
    rows |= _rows_of({f"{heads}.{boxes}": f"roi_heads.{boxes}"}, convert=partial(_with_background, rows=4))
    towers = {"box_head": "box_head.conv"}
    if masks:
        towers["mask_head"] = "mask_head.mask_fcn"
        modules[f"{heads}.mask_predictor.conv5_mask"] = "roi_heads.mask_head.deconv"
        logits = {f"{heads}.mask_predictor.mask_fcn_logits": "roi_heads.mask_head.predictor"}
        rows |= _rows_of(logits, convert=partial(_with_background, rows=1))
    for ours, published in towers.items():
        for number in range(CONVOLUTIONS):
            convolutions[f"{heads}.{ours}.{number}.0"] = f"roi_heads.{published}{number + 1}"
            modules[f"{heads}.{ours}.{number}.1.norm"] = f"roi_heads.{published}{number + 1}.norm"
    if FEDERATED in state:
        rows[f"{heads}.class_weights"] = FEDERATED, _same
    return rows | _rows_of(modules) | _rows_of(convolutions, ["weight"])


def _with_background(tensor: Tensor, rows: int) -> Tensor:
    return torch.cat([tensor.new_zeros(rows, *tensor.shape[1:]), tensor])


_ATTENTION = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
_ENCODER_LAYER = {f"self_attn.{name}": f"self_attn.{name}" for name in _ATTENTION} | {
    "self_attn_layer_norm": "norm1",
    "mlp.fc1": "linear1",
    "mlp.fc2": "linear2",
    "final_layer_norm": "norm2",
}
_DECODER_LAYER = {f"encoder_attn.{name}": f"cross_attn.{name}" for name in _ATTENTION} | {
    "self_attn.o_proj": "self_attn.out_proj",
    "self_attn_layer_norm": "norm2",
    "encoder_attn_layer_norm": "norm1",
    "mlp.fc1": "linear1",
    "mlp.fc2": "linear2",
    "final_layer_norm": "norm3",
}


def _deta_rows(prefix: str, layers: int, numbers: list[int]) -> Rows:
    """Return how the tensors of DETA's head map to ours; `prefix`: that of the tower; `numbers`: the classes' rows."""
    modules = {"head.pyramid.finest": f"{prefix}fpn1.0"}
    for level in range(5):
        for layer in (0, 1):
            modules[f"head.pyramid.project.{level}.{layer}"] = f"input_proj.{level}.{layer}"
    for ours, name in (("proposal", "enc_output"), ("from_box", "pos_trans"), ("from_patch", "pix_trans")):
        modules |= {f"head.{ours}.0": f"transformer.{name}", f"head.{ours}.1": f"transformer.{name}_norm"}
    rows: Rows = {"head.level_embed": ("transformer.level_embed", _same)}
    for number in range(layers):
        for part, names in (("encoder", _ENCODER_LAYER), ("decoder", _DECODER_LAYER)):
            layer_name = f"{part}.layers.{number}"
            modules |= {f"head.{layer_name}.{ours}": f"transformer.{layer_name}.{name}" for ours, name in names.items()}
        attention = f"decoder.layers.{number}.self_attn"
        for third, name in enumerate("qkv"):
            for kind in ("weight", "bias"):
                ours, published = f"head.{attention}.{name}_proj.{kind}", f"transformer.{attention}.in_proj_{kind}"
                rows[ours] = published, partial(_third, number=third)
    for number in range(layers + 1):
        chosen = numbers if number < layers else list(range(len(numbers)))
        rows |= _rows_of({f"head.class_embed.{number}": f"class_embed.{number}"}, convert=partial(_select, rows=chosen))
        for layer in range(3):  # ours have activations between them
            modules[f"head.decoder.bbox_embed.{number}.{2 * layer}"] = f"bbox_embed.{number}.layers.{layer}"
    return rows | _rows_of(modules)


def _third(tensor: Tensor, number: int) -> Tensor:
    return tensor.chunk(3)[number].clone()


def _select(tensor: Tensor, rows: list[int]) -> Tensor:
    """Return the classes' rows of a layer; another layer's tensor as it is, so that its shape is reported."""
    return tensor[torch.tensor(rows)] if len(tensor) == COCO_NUMBERS else tensor


def coco_classes() -> dict[int, str]:
    """Return the names of COCO's 80 classes by id, ascending; MissingExtraError without torchvision."""
    with needs_extra("eval", "torchvision"):
        from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
    names: list[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return {number: name for number, name in enumerate(names) if name not in ("__background__", "N/A")}
