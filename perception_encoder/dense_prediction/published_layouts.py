"""Layouts of published detectors, as tables from their tensors to ours, and strict loading by them.

ViTDet's Mask R-CNN is stored as by detectron2, whose last class is the background; torchvision's first is, with a box
and a mask that are never used. DETA numbers classes by COCO's ids, which have gaps, or by those of Objects365 or LVIS,
from 1; only the first row of its last class layer is used: it scores proposals of any class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from perception_encoder.dense_prediction.dense_model import InputConfig, WindowConfig
from perception_encoder.dense_prediction.detection.detr import DetrHeadConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectorHeadConfig
from perception_encoder.dense_prediction.detection.roi_heads import CONVOLUTIONS
from perception_encoder.errors import CheckpointError, MissingExtraError
from perception_encoder.models.checkpoints.layouts import StateDict

LISTED = 12
"""Maximum number of mismatches that an error lists."""
DEFAULTS = re.compile(r"\.standardize\.(mean|deviation)$|\.class_weights$")
"""Our tensors that published detectors may lack: the defaults do not change detections."""
VITDET_PREFIX = "backbone.net."
VITDET_WINDOWS, VITDET_IMAGE_SIZE = WindowConfig(size=32), 1024
VITDET_INPUTS = InputConfig(mean=(127 / 255,) * 3, deviation=(127 / 255,) * 3)
VITDET_UNUSED = (r"^pixel_(mean|std)$", r"^proposal_generator\.anchor_generator\.cell_anchors\.")
LVIS = 1203
"""Classes of LVIS, which are scored by sigmoids."""
FEDERATED = "roi_heads.box_predictor.fed_loss_cls_weights"
UNSUPPORTED = {
    r"^roi_heads\.box_head\.\d+\.": "a cascade of box heads",
    r"^backbone\.net\.blocks\.": "a ViT other than Perception Encoder's",
    r"^backbone\.bottom_up\.": "a backbone with a pyramid",
    r"\.rel_pos_[hw]$": "relative positions",
}
"""Unsupported parts, by the names of their tensors."""
DETA_WINDOWS, DETA_IMAGE_SIZE = WindowConfig(size=24, span=16), 1824
DETA_INPUTS = InputConfig(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225), margin=32)
"""ImageNet's values, by mistake: PE's are 0.5. The 16 rotary positions are a mistake, too."""
DETA_UNUSED = (r"^transformer\.decoder\.(bbox|class)_embed\.", r"\.?total_(ops|params)$")
"""Copies of the same tensors."""
COCO_NUMBERS = 91
"""One more than COCO's highest id."""


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class KeyRow:
    """Mapping of a published tensor to ours."""

    ours: str
    published: str
    convert: Callable[[Tensor], Tensor] = _same


def rows_of(
    modules: Mapping[str, str],
    parts: Sequence[str] = ("weight", "bias"),
    convert: Callable[[Tensor], Tensor] = _same,
) -> list[KeyRow]:
    """Return the rows of modules by our and the published names."""
    return [
        KeyRow(f"{ours}.{part}", f"{published}.{part}", convert)
        for ours, published in modules.items()
        for part in parts
    ]


def load_rows(model: nn.Module, state: StateDict, rows: Sequence[KeyRow], unused: Iterable[str]) -> None:
    """Load published tensors as float32, without a copy where possible.

    `unused`: patterns of names that need no row. CheckpointError that lists tensors that are missing, unexpected, or of
    another shape.
    """
    expected, tensors, problems = model.state_dict(), StateDict(), list[str]()
    for row in rows:
        if row.published not in state:
            problems.append(f"missing {row.published}")
            continue
        tensors[row.ours] = row.convert(state[row.published])
        shapes = tuple(tensors[row.ours].shape), tuple(expected[row.ours].shape)
        if shapes[0] != shapes[1]:
            problems.append(f"{row.published} becomes {shapes[0]}; it must become {shapes[1]}")
    known, patterns = {row.published for row in rows}, [re.compile(pattern) for pattern in unused]
    for name in state:
        if name not in known and not any(pattern.search(name) for pattern in patterns):
            problems.append(f"unexpected {name} {tuple(state[name].shape)}")
    if problems:
        more = [f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        raise CheckpointError("\n  ".join(["these weights do not fit:", *problems[:LISTED], *more]))
    defaults = {name: tensor for name, tensor in expected.items() if DEFAULTS.search(name)}
    model.load_state_dict({**defaults, **{name: tensor.float() for name, tensor in tensors.items()}}, assign=True)


def check_vitdet(state: StateDict) -> None:
    """Raise CheckpointError for parts of detectron2's models that PE's detectors do not have."""
    for pattern, part in UNSUPPORTED.items():
        if name := next((name for name in state if re.search(pattern, name)), None):
            raise CheckpointError(f"{name}: {part} is not supported")


def vitdet_config(state: StateDict) -> tuple[DetectorHeadConfig, int, bool]:
    """Return the heads' settings, the number of classes, and whether the model has masks."""
    needed = ("backbone.simfp_4.0.weight", "roi_heads.box_head.fc1.weight", "roi_heads.box_predictor.cls_score.weight")
    if missing := [name for name in needed if name not in state]:
        raise CheckpointError(f"missing {', '.join(missing)}")
    channels, hidden, classes = (len(state[name]) for name in needed)
    sigmoids = FEDERATED in state or classes - 1 == LVIS
    config = DetectorHeadConfig(
        vitdet=True,
        channels=channels,
        hidden=hidden,
        regions=512,
        federated=50 if sigmoids else None,
        least_score=0.02 if sigmoids else 0.05,
        most=300 if sigmoids else 100,
    )
    return config, classes - 1, "roi_heads.mask_head.predictor.weight" in state


def vitdet_rows(state: StateDict, masks: bool) -> list[KeyRow]:
    """Return how the tensors of Mask R-CNN's heads map to ours."""
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
    if masks:
        modules[f"{heads}.mask_predictor.conv5_mask"] = "roi_heads.mask_head.deconv"
    convolutions = {}  # without a bias, followed by a norm
    for level, first in enumerate((4, 1, 0, 1)):  # `first`: the number of the level's first convolution there
        for number in (0, 1):
            published = f"backbone.simfp_{level + 2}.{first + number}"
            convolutions[f"{levels}.{level}.{1 + 2 * number}"] = published
            modules[f"{levels}.{level}.{2 + 2 * number}.norm"] = f"{published}.norm"
    towers = {"box_head": "box_head.conv"} | ({"mask_head": "mask_head.mask_fcn"} if masks else {})
    for ours, published in towers.items():
        for number in range(CONVOLUTIONS):
            convolutions[f"{heads}.{ours}.{number}.0"] = f"roi_heads.{published}{number + 1}"
            modules[f"{heads}.{ours}.{number}.1.norm"] = f"roi_heads.{published}{number + 1}.norm"
    rows = rows_of(modules) + rows_of(convolutions, ["weight"])
    scores, boxes = ("box_predictor.cls_score", "box_predictor.bbox_pred")
    rows += rows_of({f"{heads}.{scores}": f"roi_heads.{scores}"}, convert=_background_first)
    rows += rows_of({f"{heads}.{boxes}": f"roi_heads.{boxes}"}, convert=partial(_with_background, rows=4))
    if FEDERATED in state:
        rows.append(KeyRow(f"{heads}.class_weights", FEDERATED))
    if masks:
        logits = {f"{heads}.mask_predictor.mask_fcn_logits": "roi_heads.mask_head.predictor"}
        rows += rows_of(logits, convert=partial(_with_background, rows=1))
    return rows


def _background_first(tensor: Tensor) -> Tensor:
    return torch.cat([tensor[-1:], tensor[:-1]])


def _with_background(tensor: Tensor, rows: int) -> Tensor:
    return torch.cat([tensor.new_zeros(rows, *tensor.shape[1:]), tensor])


@dataclass(frozen=True)
class ClassRows:
    """Rows of a classification layer that belong to classes."""

    numbers: tuple[int, ...]
    total: int

    def choose(self, tensor: Tensor) -> Tensor:
        """Return the classes' rows of a layer; all rows if the layer has a different number."""
        return tensor[torch.tensor(self.numbers)] if len(tensor) == self.total else tensor

    def begin(self, tensor: Tensor) -> Tensor:
        """Return the first rows, as many as there are classes."""
        return tensor[: len(self.numbers)] if len(tensor) == self.total else tensor


def find_prefix(state: StateDict) -> str:
    """Return the prefix of the tower's tensors in DETA; CheckpointError without a tower."""
    end = "conv1.weight"
    names = [name.removesuffix(end) for name in state if name.startswith("backbone.0.") and name.endswith(end)]
    if len(names) != 1:
        raise CheckpointError(f"found {len(names)} tensors backbone.0.….{end}; a detector has one")
    return names[0]


def deta_config(state: StateDict) -> tuple[DetrHeadConfig, ClassRows]:
    """Return the head's settings and the rows of its classes; CheckpointError if its encoder and decoder differ."""
    needed = ("transformer.level_embed", "transformer.encoder.layers.0.linear1.weight", "class_embed.0.weight")
    if missing := [name for name in needed if name not in state]:
        raise CheckpointError(f"missing {', '.join(missing)}")
    if "transformer.pix_trans.weight" not in state:
        raise CheckpointError("missing transformer.pix_trans.weight; of deformable DETRs only DETA is supported")
    encoder, decoder = (
        1 + max((int(match[1]) for name in state if (match := re.match(pattern, name))), default=-1)
        for pattern in (r"transformer\.encoder\.layers\.(\d+)\.", r"transformer\.decoder\.layers\.(\d+)\.")
    )
    if encoder != decoder:
        raise CheckpointError(
            f"the encoder has {encoder} layers, the decoder {decoder}; only equal numbers are supported"
        )
    embed, hidden, classes = (state[name] for name in needed)
    config = DetrHeadConfig(channels=embed.shape[1], layers=encoder, hidden=len(hidden), least_score=0.0)
    numbers = tuple(coco_classes()) if len(classes) == COCO_NUMBERS else tuple(range(1, len(classes)))
    return config, ClassRows(numbers, len(classes))


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


def deta_rows(prefix: str, layers: int, classes: ClassRows) -> list[KeyRow]:
    """Return how the tensors of DETA's head map to ours; `prefix`: that of the tower's tensors."""
    modules = {"head.pyramid.finest": f"{prefix}fpn1.0"}
    for level in range(5):
        for layer in (0, 1):
            modules[f"head.pyramid.project.{level}.{layer}"] = f"input_proj.{level}.{layer}"
    for ours, name in (("proposal", "enc_output"), ("from_box", "pos_trans"), ("from_patch", "pix_trans")):
        modules |= {f"head.{ours}.0": f"transformer.{name}", f"head.{ours}.1": f"transformer.{name}_norm"}
    rows = [KeyRow("head.level_embed", "transformer.level_embed")]
    for number in range(layers):
        for part, names in (("encoder", _ENCODER_LAYER), ("decoder", _DECODER_LAYER)):
            layer_name = f"{part}.layers.{number}"
            modules |= {f"head.{layer_name}.{ours}": f"transformer.{layer_name}.{name}" for ours, name in names.items()}
        attention = f"decoder.layers.{number}.self_attn"
        for third, name in enumerate("qkv"):
            for kind in ("weight", "bias"):
                ours, published = f"head.{attention}.{name}_proj.{kind}", f"transformer.{attention}.in_proj_{kind}"
                rows.append(KeyRow(ours, published, partial(_third, number=third)))
    for number in range(layers + 1):
        convert = classes.choose if number < layers else classes.begin
        rows += rows_of({f"head.class_embed.{number}": f"class_embed.{number}"}, convert=convert)
        for layer in range(3):  # ours have activations between them
            modules[f"head.decoder.bbox_embed.{number}.{2 * layer}"] = f"bbox_embed.{number}.layers.{layer}"
    return rows + rows_of(modules)


def _third(tensor: Tensor, number: int) -> Tensor:
    return tensor.chunk(3)[number].clone()


def coco_classes() -> dict[int, str]:
    """Return the names of COCO's 80 classes by id, ascending; MissingExtraError without torchvision."""
    try:
        from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
    except ImportError:
        raise MissingExtraError("torchvision", "eval") from None
    names: list[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return {number: name for number, name in enumerate(names) if name not in ("__background__", "N/A")}
