"""PE's DETA as its authors store it: the pyramid, the deformable transformer, and the heads of its layers.

Its classes are numbered by COCO's ids, which have gaps, or by those of Objects365 or LVIS, which begin with 1. Of the
last class layer the first row alone is used: it scores proposals of any class.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from perception_encoder.dense_prediction.dense_model import InputConfig, WindowConfig
from perception_encoder.dense_prediction.detection.detr import DetrHeadConfig
from perception_encoder.dense_prediction.published.layout import KeyRow, rows_of
from perception_encoder.errors import CheckpointError, MissingExtraError
from perception_encoder.models.checkpoints.layouts import StateDict

WINDOWS, IMAGE_SIZE = WindowConfig(size=24, span=16), 1824
INPUTS = InputConfig(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225), margin=32)
"""Those of ImageNet, by mistake: PE's own are 0.5. The number of rotary positions, 16, is one, too."""
UNUSED = (r"^transformer\.decoder\.(bbox|class)_embed\.", r"\.?total_(ops|params)$")
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
