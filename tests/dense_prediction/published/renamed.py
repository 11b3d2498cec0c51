"""Small detectors with random weights, and their tensors as the authors of the paper store them.

The tables here are written apart from the package's, after detectron2's and DETA's modules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from perception_encoder.dense_prediction import published_detectors
from perception_encoder.dense_prediction.dense_model import Backbone, DenseModel, InputConfig
from perception_encoder.dense_prediction.detection.detr import DetrHead, DetrHeadConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import Detector, DetectorHeadConfig
from perception_encoder.dense_prediction.published_detectors import coco_classes
from perception_encoder.dense_prediction.vitdet import WindowConfig
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.tower import Tower
from perception_encoder.models.vision_transformer import VisionTransformer

SIDE = 128  # pixels of the square that images are padded to: 8x8 patches, in windows of 4x4
DEPTH, HEADS, WIDTH, WINDOW, DETA_SPAN = 3, 2, 32, 4, 3
VISION = VisionConfig(
    image_size=64,
    patch_size=16,
    width=WIDTH,
    depth=DEPTH,
    heads=HEADS,
    mlp_width=48,
    class_token=False,
    attention_pool=False,
    final_norm=False,
    layer_scale=0.1,
)
NEAR_HALF = InputConfig(mean=(127 / 255,) * 3, deviation=(127 / 255,) * 3)
IMAGENET = InputConfig(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225), margin=32)


def randomize(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.7 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
            noise = torch.randn(parameter.shape, generator=generator) * (0.3 if "positional" in name else scale)
            parameter.copy_(noise + float(parameter.ndim == 1 and "weight" in name))


def windows(span: int) -> WindowConfig:
    return WindowConfig(size=WINDOW, global_blocks=(1,), span=span)


def use_small_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect the towers of this module in files, in place of PE-G's."""
    for name, span in (("VITDET", WINDOW), ("DETA", DETA_SPAN)):
        tower = replace(getattr(published_detectors, name), vision=VISION, windows=windows(span), image_size=SIDE)
        monkeypatch.setattr(published_detectors, name, tower)


def backbone(span: int, inputs: InputConfig, layer_scale: bool = True) -> Backbone:
    tower = Tower.of(VisionTransformer(VISION if layer_scale else replace(VISION, layer_scale=None)), "none")
    return Backbone(tower, DEPTH - 1, True, windows(span), SIDE, inputs)


def vitdet(classes: int = 5, masks: bool = True, lvis: bool = False, layer_scale: bool = True) -> DenseModel:
    config = DetectorHeadConfig(
        vitdet=True,
        channels=8,
        hidden=16,
        federated=50 if lvis else None,
        least_score=0.02 if lvis else 0.05,
        most=300 if lvis else 100,
    )
    model = DenseModel(backbone(WINDOW, NEAR_HALF, layer_scale), Detector(WIDTH, classes, masks, config))
    randomize(model, 1)
    if lvis:
        model.head.model.roi_heads.class_weights.copy_(torch.rand(classes))
    return model.eval()


def deta() -> DenseModel:
    config = DetrHeadConfig(channels=32, layers=2, hidden=24, least_score=0.0)
    model = DenseModel(backbone(DETA_SPAN, IMAGENET), DetrHead(WIDTH, 80, config))
    randomize(model, 2)
    return model.eval()


def rope_tables(side: int, span: int, head_width: int = WIDTH // HEADS) -> dict[str, Tensor]:
    """Cosines and sines of a square grid, positions from 1, x in the first half of a head's channels."""
    half = head_width // 2
    angles = np.outer(np.arange(side) / side * span + 1, 10_000.0 ** (-np.arange(0, half, 2) / half)).repeat(2, axis=1)
    x, y = np.broadcast_to(angles[None], (side, side, half)), np.broadcast_to(angles[:, None], (side, side, half))
    both = torch.from_numpy(np.concatenate([x, y], axis=-1).reshape(side**2, 2 * half)).float()
    return {"freqs_cos": both.cos(), "freqs_sin": both.sin()}


def published_tower(model: DenseModel, prefix: str, span: int) -> dict[str, Tensor]:
    """The tower's tensors, and the tables that the reference stores with every block."""
    tensors = model.backbone.model.state_dict()
    state = {
        f"{prefix}{name}": item[None] if name == "positional_embedding" else item for name, item in tensors.items()
    }
    window, whole = rope_tables(WINDOW, span), rope_tables(SIDE // 16, span)
    for part in ("freqs_cos", "freqs_sin"):
        state[f"{prefix}rope_win.{part}"], state[f"{prefix}rope_glb.{part}"] = window[part], whole[part]
        for number in range(DEPTH):
            table = whole if number == 1 else window
            state[f"{prefix}transformer.resblocks.{number}.attn.rope.{part}"] = table[part]
    return state


DETECTRON2: Sequence[tuple[str, str]] = (
    (r"backbone\.levels\.0\.0\.0\.", r"backbone.simfp_2.0."),
    (r"backbone\.levels\.0\.0\.1\.norm\.", r"backbone.simfp_2.1."),
    (r"backbone\.levels\.0\.0\.3\.", r"backbone.simfp_2.3."),
    (r"backbone\.levels\.0\.[12]\.", r"backbone.simfp_2.4."),
    (r"backbone\.levels\.0\.[34]\.", r"backbone.simfp_2.5."),
    (r"backbone\.levels\.1\.0\.", r"backbone.simfp_3.0."),
    (r"backbone\.levels\.1\.[12]\.", r"backbone.simfp_3.1."),
    (r"backbone\.levels\.1\.[34]\.", r"backbone.simfp_3.2."),
    (r"backbone\.levels\.2\.[12]\.", r"backbone.simfp_4.0."),
    (r"backbone\.levels\.2\.[34]\.", r"backbone.simfp_4.1."),
    (r"backbone\.levels\.3\.[12]\.", r"backbone.simfp_5.1."),
    (r"backbone\.levels\.3\.[34]\.", r"backbone.simfp_5.2."),
    (r"rpn\.head\.conv\.(\d)\.0\.", r"proposal_generator.rpn_head.conv.conv\1."),
    (r"rpn\.head\.cls_logits\.", r"proposal_generator.rpn_head.objectness_logits."),
    (r"rpn\.head\.bbox_pred\.", r"proposal_generator.rpn_head.anchor_deltas."),
    *((rf"roi_heads\.box_head\.{n}\.[01]\.", f"roi_heads.box_head.conv{n + 1}.") for n in range(4)),
    (r"roi_heads\.box_head\.5\.", r"roi_heads.box_head.fc1."),
    (r"roi_heads\.box_predictor\.", r"roi_heads.box_predictor."),
    (r"roi_heads\.class_weights", r"roi_heads.box_predictor.fed_loss_cls_weights"),
    *((rf"roi_heads\.mask_head\.{n}\.[01]\.", f"roi_heads.mask_head.mask_fcn{n + 1}.") for n in range(4)),
    (r"roi_heads\.mask_predictor\.conv5_mask\.", r"roi_heads.mask_head.deconv."),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.", r"roi_heads.mask_head.predictor."),
)

DETA: Sequence[tuple[str, str]] = (
    (r"level_embed", "transformer.level_embed"),
    (r"pyramid\.finest\.", "backbone.0.body.fpn1.0."),
    (r"pyramid\.project\.", "input_proj."),
    (r"proposal\.0\.", "transformer.enc_output."),
    (r"proposal\.1\.", "transformer.enc_output_norm."),
    (r"from_box\.0\.", "transformer.pos_trans."),
    (r"from_box\.1\.", "transformer.pos_trans_norm."),
    (r"from_patch\.0\.", "transformer.pix_trans."),
    (r"from_patch\.1\.", "transformer.pix_trans_norm."),
    (r"encoder\.layers\.(\d)\.self_attn_layer_norm\.", r"transformer.encoder.layers.\1.norm1."),
    (r"encoder\.layers\.(\d)\.final_layer_norm\.", r"transformer.encoder.layers.\1.norm2."),
    (r"encoder\.layers\.(\d)\.mlp\.fc(\d)\.", r"transformer.encoder.layers.\1.linear\2."),
    (r"encoder\.layers\.(\d)\.self_attn\.", r"transformer.encoder.layers.\1.self_attn."),
    (r"decoder\.layers\.(\d)\.self_attn\.o_proj\.", r"transformer.decoder.layers.\1.self_attn.out_proj."),
    (r"decoder\.layers\.(\d)\.encoder_attn_layer_norm\.", r"transformer.decoder.layers.\1.norm1."),
    (r"decoder\.layers\.(\d)\.self_attn_layer_norm\.", r"transformer.decoder.layers.\1.norm2."),
    (r"decoder\.layers\.(\d)\.final_layer_norm\.", r"transformer.decoder.layers.\1.norm3."),
    (r"decoder\.layers\.(\d)\.mlp\.fc(\d)\.", r"transformer.decoder.layers.\1.linear\2."),
    (r"decoder\.layers\.(\d)\.encoder_attn\.", r"transformer.decoder.layers.\1.cross_attn."),
    *((rf"decoder\.bbox_embed\.(\d)\.{2 * n}\.", rf"bbox_embed.\1.layers.{n}.") for n in range(3)),
    (r"class_embed\.", "class_embed."),
)


def renamed(state: dict[str, Tensor], table: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    result = {}
    for name, item in state.items():
        (pattern, other), *more = [(item, other) for item, other in table if re.match(item, name)]
        assert not more
        result[re.sub(f"^{pattern}", other, name)] = item
    return result


def to_detectron2(model: DenseModel) -> dict[str, Tensor]:
    """ViTDet's layout: the background is the last class, and has neither a box nor a mask."""
    tensors = {name: tensor for name, tensor in model.head.model.state_dict().items() if "standardize" not in name}
    for name in list(tensors):
        if ".cls_score." in name:
            tensors[name] = torch.cat([tensors[name][1:], tensors[name][:1]])
        elif "box_predictor.bbox_pred." in name:
            tensors[name] = tensors[name][4:]
        elif ".mask_fcn_logits." in name:
            tensors[name] = tensors[name][1:]
    return renamed(tensors, DETECTRON2) | published_tower(model, "backbone.net.", WINDOW)


def to_deta(model: DenseModel) -> dict[str, Tensor]:
    """DETA's layout: our classes are the rows of COCO's ids among 91."""
    tensors = {name: tensor for name, tensor in model.head.state_dict().items() if "standardize" not in name}
    stages = model.head.config.layers
    for number in range(stages + 1):
        for part in ("weight", "bias"):
            name = f"class_embed.{number}.{part}"
            wide = torch.randn(91, *tensors[name].shape[1:], generator=torch.Generator().manual_seed(number))
            rows = list(coco_classes()) if number < stages else [0]
            wide[rows] = tensors[name][: len(rows)]
            tensors[name] = wide
    fused = {}
    for number in range(stages):
        for part in ("weight", "bias"):
            prefix = f"decoder.layers.{number}.self_attn"
            parts = [tensors.pop(f"{prefix}.{letter}_proj.{part}") for letter in "qkv"]
            fused[f"transformer.{prefix}.in_proj_{part}"] = torch.cat(parts)
    state = renamed(tensors, DETA) | fused | published_tower(model, "backbone.0.body.", DETA_SPAN)
    doubled = {
        f"transformer.decoder.{name}": item for name, item in state.items() if re.match("(bbox|class)_embed", name)
    }
    return state | doubled
