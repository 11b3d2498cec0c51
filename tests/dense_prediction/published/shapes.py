"""The tensors of the published files at their real size, without memory: shapes alone, after the published code."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.dense_prediction.published.renamed import rope_tables

BLOCKS, MLP, TOWER = 50, 8960, 1536
GLOBAL = (12, 24, 36, 49)
SAMPLING = {"sampling_offsets": 320, "attention_weights": 160, "value_proj": 256, "output_proj": 256}
"""8 heads, 5 levels and 4 points."""


def empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def linear(name: str, out: int, inputs: int) -> dict[str, Tensor]:
    return {f"{name}.weight": empty(out, inputs), f"{name}.bias": empty(out)}


def norm(name: str, channels: int) -> dict[str, Tensor]:
    return {f"{name}.weight": empty(channels), f"{name}.bias": empty(channels)}


def tower(prefix: str, tile: int, window: int, grid: int, span: int, layer_scale: bool) -> dict[str, Tensor]:
    """PE-Core-G or PE-Spatial-G with patches of 16 pixels, and its tables of rotary positions, 16 heads of 96."""
    state = {"conv1.weight": empty(TOWER, 3, 16, 16), "positional_embedding": empty(1, tile**2, TOWER)}
    state |= norm("ln_pre", TOWER)
    tables = {True: rope_tables(grid, span, 96), False: rope_tables(window, span, 96)}
    state |= {f"rope_win.{name}": table for name, table in tables[False].items()}
    state |= {f"rope_glb.{name}": table for name, table in tables[True].items()}
    for number in range(BLOCKS):
        block = f"transformer.resblocks.{number}"
        state |= norm(f"{block}.ln_1", TOWER) | norm(f"{block}.ln_2", TOWER)
        state |= {f"{block}.attn.in_proj_weight": empty(3 * TOWER, TOWER)}
        state |= {f"{block}.attn.in_proj_bias": empty(3 * TOWER)}
        state |= linear(f"{block}.attn.out_proj", TOWER, TOWER)
        state |= linear(f"{block}.mlp.c_fc", MLP, TOWER) | linear(f"{block}.mlp.c_proj", TOWER, MLP)
        state |= {f"{block}.attn.rope.{name}": table for name, table in tables[number in GLOBAL].items()}
        if layer_scale:
            state |= {f"{block}.ls_1.gamma": empty(TOWER), f"{block}.ls_2.gamma": empty(TOWER)}
    return {f"{prefix}{name}": item for name, item in state.items()}


def convolution(name: str, out: int, inputs: int, side: int) -> dict[str, Tensor]:
    return {f"{name}.weight": empty(out, inputs, side, side)} | norm(f"{name}.norm", out)


def mask_rcnn(classes: int, layer_scale: bool, federated: bool) -> dict[str, Tensor]:
    """mask_rcnn_PE….pth: 1024 px, windows of 32."""
    state = tower("backbone.net.", 32, 32, 64, 32, layer_scale)
    state |= {"backbone.simfp_2.0.weight": empty(1536, 768, 2, 2), "backbone.simfp_2.0.bias": empty(768)}
    state |= norm("backbone.simfp_2.1", 768)
    state |= {"backbone.simfp_2.3.weight": empty(768, 384, 2, 2), "backbone.simfp_2.3.bias": empty(384)}
    state |= {"backbone.simfp_3.0.weight": empty(1536, 768, 2, 2), "backbone.simfp_3.0.bias": empty(768)}
    for level, (first, inputs) in {2: (4, 384), 3: (1, 768), 4: (0, 1536), 5: (1, 1536)}.items():
        state |= convolution(f"backbone.simfp_{level}.{first}", 256, inputs, 1)
        state |= convolution(f"backbone.simfp_{level}.{first + 1}", 256, 256, 3)
    for number in (0, 1):
        conv = f"proposal_generator.rpn_head.conv.conv{number}"
        state |= {f"{conv}.weight": empty(256, 256, 3, 3), f"{conv}.bias": empty(256)}
    for name, out in (("objectness_logits", 3), ("anchor_deltas", 12)):
        head = f"proposal_generator.rpn_head.{name}"
        state |= {f"{head}.weight": empty(out, 256, 1, 1), f"{head}.bias": empty(out)}
    for number in range(1, 5):
        state |= convolution(f"roi_heads.box_head.conv{number}", 256, 256, 3)
        state |= convolution(f"roi_heads.mask_head.mask_fcn{number}", 256, 256, 3)
    state |= linear("roi_heads.box_head.fc1", 1024, 256 * 49)
    state |= linear("roi_heads.box_predictor.cls_score", classes + 1, 1024)
    state |= linear("roi_heads.box_predictor.bbox_pred", 4 * classes, 1024)
    state |= {"roi_heads.mask_head.deconv.weight": empty(256, 256, 2, 2), "roi_heads.mask_head.deconv.bias": empty(256)}
    predictor = "roi_heads.mask_head.predictor"
    state |= {f"{predictor}.weight": empty(classes, 256, 1, 1), f"{predictor}.bias": empty(classes)}
    return state | ({"roi_heads.box_predictor.fed_loss_cls_weights": empty(classes)} if federated else {})


def deta_coco() -> dict[str, Tensor]:
    """deta_coco_1824pix.pth: windows of 24."""
    state = tower("backbone.0.body.", 24, 24, 114, 16, layer_scale=True)
    state |= {"backbone.0.body.fpn1.0.weight": empty(1536, 768, 2, 2), "backbone.0.body.fpn1.0.bias": empty(768)}
    for level, (inputs, side) in enumerate(((768, 1), (1536, 1), (1536, 1), (1536, 3), (256, 3))):
        projection = f"input_proj.{level}"
        state |= {f"{projection}.0.weight": empty(256, inputs, side, side), f"{projection}.0.bias": empty(256)}
        state |= norm(f"{projection}.1", 256)
    state["transformer.level_embed"] = empty(5, 256)
    for name, width in (("enc_output", 256), ("pos_trans", 512), ("pix_trans", 256)):
        state |= linear(f"transformer.{name}", width, width) | norm(f"transformer.{name}_norm", width)
    for part, attention, norms in (("encoder", "self_attn", (1, 2)), ("decoder", "cross_attn", (1, 2, 3))):
        for number in range(6):
            layer = f"transformer.{part}.layers.{number}"
            for name, out in SAMPLING.items():
                state |= linear(f"{layer}.{attention}.{name}", out, 256)
            state |= linear(f"{layer}.linear1", 2048, 256) | linear(f"{layer}.linear2", 256, 2048)
            for item in norms:
                state |= norm(f"{layer}.norm{item}", 256)
            if part == "decoder":
                state |= {f"{layer}.self_attn.in_proj_weight": empty(768, 256)}
                state |= {f"{layer}.self_attn.in_proj_bias": empty(768)}
                state |= linear(f"{layer}.self_attn.out_proj", 256, 256)
    for number in range(7):
        for prefix in ("", "transformer.decoder."):
            state |= linear(f"{prefix}class_embed.{number}", 91, 256)
            for index, out in enumerate((256, 256, 4)):
                state |= linear(f"{prefix}bbox_embed.{number}.layers.{index}", out, 256)
    return state
