"""Tables of published tensors beside ours, and strict loading by them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
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
"""The most misfits that an error lists."""
DEFAULTS = re.compile(r"\.standardize\.(mean|deviation)$|\.class_weights$")
"""Tensors of ours that published detectors may lack: they change nothing of what is detected."""


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class KeyRow:
    """Where a published tensor goes."""

    own: str
    published: str
    convert: Callable[[Tensor], Tensor] = _same


def rows_of(own: str, published: str, parts: Sequence[str] = ("weight", "bias")) -> list[KeyRow]:
    """Return the rows of a module's tensors."""
    return [KeyRow(f"{own}.{part}", f"{published}.{part}") for part in parts]


def load_rows(model: nn.Module, state: StateDict, rows: Sequence[KeyRow], unused: Iterable[str]) -> None:
    """Load published tensors, as float32; they may become the model's own, without a copy.

    `unused`: patterns of names that need no row. CheckpointError that lists what is missing, unexpected, or of another
    shape.
    """
    own, tensors, problems = model.state_dict(), StateDict(), list[str]()
    for row in rows:
        if row.published not in state:
            problems.append(f"missing {row.published}")
            continue
        tensors[row.own] = row.convert(state[row.published])
        expected, shape = tuple(own[row.own].shape), tuple(tensors[row.own].shape)
        if shape != expected:
            problems.append(f"{row.published} becomes {shape}, must become {expected}")
    known, patterns = {row.published for row in rows}, [re.compile(each) for each in unused]
    for name in state:
        if name not in known and not any(pattern.search(name) for pattern in patterns):
            problems.append(f"unexpected {name} {tuple(state[name].shape)}")
    if problems:
        more = [f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        raise CheckpointError("\n  ".join(["these weights do not fit:", *problems[:LISTED], *more]))
    defaults = {name: each for name, each in own.items() if DEFAULTS.search(name)}
    model.load_state_dict({**defaults, **{name: each.float() for name, each in tensors.items()}}, assign=True)


VITDET_PREFIX = "backbone.net."
VITDET_WINDOWS, VITDET_IMAGE_SIZE = WindowConfig(size=32), 1024
VITDET_INPUTS = InputConfig(mean=(127 / 255,) * 3, deviation=(127 / 255,) * 3)
VITDET_UNUSED = (r"^pixel_(mean|std)$", r"^proposal_generator\.anchor_generator\.cell_anchors\.")
LVIS = 1203
"""Classes of LVIS, which are scored by sigmoids."""
FEDERATED = "roi_heads.box_predictor.fed_loss_cls_weights"
UNSUPPORTED = {
    r"^roi_heads\.box_head\.\d+\.": "a cascade of box heads",
    r"^backbone\.net\.blocks\.": "a ViT that is not Perception Encoder's",
    r"^backbone\.bottom_up\.": "a backbone with a pyramid of its own",
    r"\.rel_pos_[hw]$": "relative positions",
}
"""Patterns of names to what they belong to."""


def check_vitdet(state: StateDict) -> None:
    """Raise CheckpointError for parts of detectron2's models that PE's detectors do not have."""
    for pattern, part in UNSUPPORTED.items():
        if name := next((each for each in state if re.search(pattern, each)), None):
            raise CheckpointError(f"{name}: {part} is not supported")


def vitdet_config(state: StateDict) -> tuple[DetectorHeadConfig, int, bool]:
    """Return the heads' settings, the number of classes, and whether there are masks."""
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
    """Return where the tensors of the heads go."""
    own, heads = "head.model", "head.model.roi_heads"
    rows = [*_pyramid_rows(f"{own}.backbone.levels"), *_proposal_rows(f"{own}.rpn.head", "proposal_generator.rpn_head")]
    rows += _convolutions(f"{heads}.box_head", "roi_heads.box_head.conv")
    rows += rows_of(f"{heads}.box_head.{CONVOLUTIONS + 1}", "roi_heads.box_head.fc1")  # a flattening is between them
    for name, convert in (("cls_score", _background_first), ("bbox_pred", _with_background_box)):
        for part in ("weight", "bias"):
            at = f"box_predictor.{name}.{part}"
            rows.append(KeyRow(f"{heads}.{at}", f"roi_heads.{at}", convert))
    if FEDERATED in state:
        rows.append(KeyRow(f"{heads}.class_weights", FEDERATED))
    if masks:
        rows += _convolutions(f"{heads}.mask_head", "roi_heads.mask_head.mask_fcn")
        rows += rows_of(f"{heads}.mask_predictor.conv5_mask", "roi_heads.mask_head.deconv")
        for part in ("weight", "bias"):
            logits = f"{heads}.mask_predictor.mask_fcn_logits.{part}"
            rows.append(KeyRow(logits, f"roi_heads.mask_head.predictor.{part}", _with_background_mask))
    return rows


def _pyramid_rows(own: str) -> list[KeyRow]:
    rows = []
    for level, first in enumerate((4, 1, 0, 1)):  # of its layers there, that of the first convolution
        there = f"backbone.simfp_{level + 2}"
        for number in (0, 1):
            convolution = f"{there}.{first + number}"
            rows.append(KeyRow(f"{own}.{level}.{1 + 2 * number}.weight", f"{convolution}.weight"))
            rows += rows_of(f"{own}.{level}.{2 + 2 * number}.norm", f"{convolution}.norm")
    rows += rows_of(f"{own}.0.0.0", "backbone.simfp_2.0")
    rows += rows_of(f"{own}.0.0.1.norm", "backbone.simfp_2.1")
    rows += rows_of(f"{own}.0.0.3", "backbone.simfp_2.3")
    rows += rows_of(f"{own}.1.0", "backbone.simfp_3.0")
    return rows


def _proposal_rows(own: str, there: str) -> list[KeyRow]:
    rows = [row for number in (0, 1) for row in rows_of(f"{own}.conv.{number}.0", f"{there}.conv.conv{number}")]
    rows += rows_of(f"{own}.cls_logits", f"{there}.objectness_logits")
    return rows + rows_of(f"{own}.bbox_pred", f"{there}.anchor_deltas")


def _convolutions(own: str, there: str) -> list[KeyRow]:
    """Rows of convolutions with norms; there they are numbered from 1."""
    rows = []
    for number in range(CONVOLUTIONS):
        rows.append(KeyRow(f"{own}.{number}.0.weight", f"{there}{number + 1}.weight"))
        rows += rows_of(f"{own}.{number}.1.norm", f"{there}{number + 1}.norm")
    return rows


def _background_first(tensor: Tensor) -> Tensor:
    return torch.cat([tensor[-1:], tensor[:-1]])


def _with_background_box(tensor: Tensor) -> Tensor:
    return torch.cat([tensor.new_zeros(4, *tensor.shape[1:]), tensor])


def _with_background_mask(tensor: Tensor) -> Tensor:
    return torch.cat([tensor.new_zeros(1, *tensor.shape[1:]), tensor])


DETA_WINDOWS, DETA_IMAGE_SIZE = WindowConfig(size=24, span=16), 1824
DETA_INPUTS = InputConfig(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225), margin=32)
"""Those of ImageNet, by mistake: PE's own are 0.5. The number of rotary positions, 16, is one, too."""
DETA_UNUSED = (r"^transformer\.decoder\.(bbox|class)_embed\.", r"\.?total_(ops|params)$")
"""The decoder's own are the same tensors once more."""
COCO_NUMBERS = 91
"""One more than COCO's highest id."""
_ATTENTION = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")


@dataclass(frozen=True)
class ClassRows:
    """Which of a class layer's rows are those of a class."""

    numbers: tuple[int, ...]
    total: int

    def choose(self, tensor: Tensor) -> Tensor:
        """Return the classes' rows of a layer; of one with another number of rows all of them."""
        return tensor[torch.tensor(self.numbers)] if len(tensor) == self.total else tensor

    def begin(self, tensor: Tensor) -> Tensor:
        """Return as many rows, from the first on."""
        return tensor[: len(self.numbers)] if len(tensor) == self.total else tensor


def find_prefix(state: StateDict) -> str:
    """Return what the names of the tower's tensors begin with; CheckpointError without a tower."""
    ends = "conv1.weight"
    names = [name.removesuffix(ends) for name in state if name.startswith("backbone.0.") and name.endswith(ends)]
    if len(names) != 1:
        raise CheckpointError(f"there are {len(names)} tensors backbone.0.….{ends}; a detector has one")
    return names[0]


def deta_config(state: StateDict) -> tuple[DetrHeadConfig, ClassRows]:
    """Return the head's settings, and the rows of its classes; CheckpointError if its encoder and decoder differ."""
    needed = ("transformer.level_embed", "transformer.encoder.layers.0.linear1.weight", "class_embed.0.weight")
    if missing := [name for name in needed if name not in state]:
        raise CheckpointError(f"missing {', '.join(missing)}")
    if "transformer.pix_trans.weight" not in state:
        raise CheckpointError("missing transformer.pix_trans.weight; of deformable DETRs only DETA is supported")
    depths = [_count(state, rf"transformer\.{part}\.layers\.(\d+)\.") for part in ("encoder", "decoder")]
    if depths[0] != depths[1]:
        raise CheckpointError(
            f"the encoder has {depths[0]} layers, the decoder {depths[1]}; only equal numbers are supported"
        )
    embed, hidden, classes = (state[name] for name in needed)
    config = DetrHeadConfig(channels=embed.shape[1], layers=depths[0], hidden=len(hidden), least_score=0.0)
    numbers = tuple(coco_classes()) if len(classes) == COCO_NUMBERS else tuple(range(1, len(classes)))
    return config, ClassRows(numbers, len(classes))


def _count(state: StateDict, pattern: str) -> int:
    return 1 + max((int(match[1]) for name in state if (match := re.match(pattern, name))), default=-1)


def deta_rows(prefix: str, layers: int, classes: ClassRows) -> list[KeyRow]:
    """Return where the tensors of the head go."""
    there = "transformer"
    rows = [KeyRow("head.level_embed", f"{there}.level_embed"), *rows_of("head.pyramid.finest", f"{prefix}fpn1.0")]
    for level in range(5):
        for layer in (0, 1):
            rows += rows_of(f"head.pyramid.project.{level}.{layer}", f"input_proj.{level}.{layer}")
    for own, name in (("proposal", "enc_output"), ("from_box", "pos_trans"), ("from_patch", "pix_trans")):
        rows += rows_of(f"head.{own}.0", f"{there}.{name}") + rows_of(f"head.{own}.1", f"{there}.{name}_norm")
    for number in range(layers):
        rows += _encoder_rows(f"head.encoder.layers.{number}", f"{there}.encoder.layers.{number}")
        rows += _decoder_rows(f"head.decoder.layers.{number}", f"{there}.decoder.layers.{number}")
    for number in range(layers + 1):
        choose = classes.choose if number < layers else classes.begin
        for part in ("weight", "bias"):
            rows.append(KeyRow(f"head.class_embed.{number}.{part}", f"class_embed.{number}.{part}", choose))
        for layer in range(3):  # ours have activations between them
            rows += rows_of(f"head.decoder.bbox_embed.{number}.{2 * layer}", f"bbox_embed.{number}.layers.{layer}")
    return rows


def _encoder_rows(own: str, there: str) -> list[KeyRow]:
    rows = [row for name in _ATTENTION for row in rows_of(f"{own}.self_attn.{name}", f"{there}.self_attn.{name}")]
    names = {"self_attn_layer_norm": "norm1", "mlp.fc1": "linear1", "mlp.fc2": "linear2", "final_layer_norm": "norm2"}
    return rows + [row for name, other in names.items() for row in rows_of(f"{own}.{name}", f"{there}.{other}")]


def _decoder_rows(own: str, there: str) -> list[KeyRow]:
    rows = [row for name in _ATTENTION for row in rows_of(f"{own}.encoder_attn.{name}", f"{there}.cross_attn.{name}")]
    for third, name in enumerate("qkv"):
        for part in ("weight", "bias"):
            at, choose = f"{own}.self_attn.{name}_proj.{part}", partial(_third, number=third)
            rows.append(KeyRow(at, f"{there}.self_attn.in_proj_{part}", choose))
    names = {
        "self_attn.o_proj": "self_attn.out_proj",
        "self_attn_layer_norm": "norm2",
        "encoder_attn_layer_norm": "norm1",
        "mlp.fc1": "linear1",
        "mlp.fc2": "linear2",
        "final_layer_norm": "norm3",
    }
    return rows + [row for name, other in names.items() for row in rows_of(f"{own}.{name}", f"{there}.{other}")]


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
