"""Published detectors: their layouts load back to equal detections, and what does not fit is listed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from perception_encoder.dense_prediction.dense_model import DenseModel, HeadInfo, WindowConfig
from perception_encoder.dense_prediction.detection.detections import Detected
from perception_encoder.dense_prediction.heads import load_head
from perception_encoder.dense_prediction.published_detectors import describe_backbone, published_detector
from perception_encoder.dense_prediction.published_layouts import (
    FEDERATED,
    ClassRows,
    KeyRow,
    check_vitdet,
    coco_classes,
    deta_config,
    deta_rows,
    find_prefix,
    load_rows,
    rows_of,
    vitdet_config,
    vitdet_rows,
)
from perception_encoder.dense_prediction.views import Views, detect_objects
from perception_encoder.errors import CheckpointError, ConfigError
from tests.dense_prediction.published.renamed import SIDE, WINDOW, deta, published_tower, to_deta, to_detectron2, vitdet
from tests.dense_prediction.published.shapes import GLOBAL, deta_coco, empty, mask_rcnn, tower

IMAGE = Image.fromarray(np.random.default_rng(3).integers(0, 255, (90, 160, 3), np.uint8))


def load_detector(path: Path, classes: Sequence[str] = ()) -> tuple[DenseModel, HeadInfo]:
    head = load_head(path, task="detection", classes=classes)
    return head.model, head.info


def detected(model: DenseModel, views: Views | None = None) -> Detected:
    with torch.inference_mode():
        return detect_objects(model, IMAGE, SIDE, views)


def agree(one: Detected, other: Detected) -> None:
    assert len(one.boxes) > 3
    assert np.array_equal(one.labels, other.labels)
    assert np.allclose(one.scores, other.scores, atol=1e-6) and np.allclose(one.boxes, other.boxes, atol=1e-3)
    assert (one.masks is None) == (other.masks is None)
    assert one.masks is None or np.mean(one.masks == other.masks) > 0.9999


@pytest.mark.parametrize("masks", [True, False])
def test_mask_rcnn_of_vitdet(masks: bool, tmp_path: Path) -> None:
    model = vitdet(masks=masks)
    save_file(
        {name: item.clone().contiguous() for name, item in to_detectron2(model).items()}, tmp_path / "a.safetensors"
    )
    loaded, info = load_detector(tmp_path / "a.safetensors")
    agree(detected(model), detected(loaded))
    agree(detected(model, Views(flip=True)), detected(loaded, Views(flip=True)))
    assert (info.task, info.masks, info.classes) == ("detection", masks, ("1", "2", "3", "4", "5"))
    assert info.windows is not None and (info.windows.size, info.windows.span) == (4, 4)
    assert info.windows.global_blocks == (1,) and (info.image_size, info.layer) == (SIDE, 2)
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    box = detected(loaded).boxes
    assert box.min() >= 0 and box[:, 2].max() <= 160 and box[:, 3].max() <= 90


def test_lvis_and_a_tower_without_layer_scale(tmp_path: Path) -> None:
    """As PE-Core's: sigmoids, and the weights of the federated loss."""
    model = vitdet(lvis=True, layer_scale=False)
    torch.save({"model": to_detectron2(model), "iteration": 3}, tmp_path / "a.pth")
    loaded, info = load_detector(tmp_path / "a.pth", ["a", "b", "c", "d", "e"])
    agree(detected(model), detected(loaded))
    assert info.head["federated"] == 50 and (info.head["least_score"], info.head["most"]) == (0.02, 300)
    ours, other = (item.head.model.roi_heads.class_weights for item in (model, loaded))
    assert torch.equal(ours, other) and info.classes == ("a", "b", "c", "d", "e")


def test_deta_of_objects365(tmp_path: Path) -> None:
    """The file of a training run, which has its options too."""
    model = deta()
    state = to_deta(model, range(1, 5), 5)
    options = argparse.Namespace(lr=1e-4, backbone="pev1")
    torch.save({"model": state, "args": options, "epoch": 2}, tmp_path / "deta.pth")
    loaded, info = load_detector(tmp_path / "deta.pth")
    agree(detected(model), detected(loaded))
    assert (info.task, info.classes, info.image_size) == ("detr", ("1", "2", "3", "4"), SIDE)
    assert info.windows is not None and info.windows.span == 3 and loaded.backbone.inputs.margin == 32
    box = detected(loaded).boxes
    assert box.min() >= 0 and box[:, 2].max() <= 160 and box[:, 3].max() <= 90


def test_deta_of_coco_has_gaps_in_its_numbers(tmp_path: Path) -> None:
    model = deta(80, queries=900)
    state = to_deta(model, list(coco_classes()), 91)
    torch.save(state, tmp_path / "deta.pth")
    loaded, info = load_detector(tmp_path / "deta.pth")
    agree(detected(model), detected(loaded))
    assert (info.classes[0], info.classes[11], info.classes[79]) == ("person", "stop sign", "toothbrush")


def spoilt(state: dict[str, Tensor], name: str, value: Tensor | None) -> dict[str, Tensor]:
    rest = {item: item for item, item in state.items() if item != name}
    return rest if value is None else {**rest, name: value}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("roi_heads.box_head.conv1.norm.bias", None, r"missing roi_heads\.box_head\.conv1\.norm\.bias"),
        ("roi_heads.keypoint_head.weight", torch.ones(2, 3), r"unexpected roi_heads\.keypoint_head\.weight \(2, 3\)"),
        ("backbone.simfp_5.1.weight", torch.ones(8, 9, 1, 1), r"backbone\.simfp_5\.1\.weight becomes \(8, 9, 1, 1\)"),
        ("backbone.net.conv1.weight", None, r"missing backbone\.net\.conv1\.weight; only towers of Perception Encoder"),
        ("roi_heads.box_head.fc1.weight", None, r"missing roi_heads\.box_head\.fc1\.weight"),
        ("roi_heads.box_head.0.conv1.weight", torch.ones(1), r"a cascade of box heads is not supported"),
        ("backbone.net.blocks.0.attn.qkv.weight", torch.ones(1), r"a ViT other than Perception Encoder's is not supp"),
        ("backbone.net.transformer.resblocks.0.attn.rel_pos_h", torch.ones(1), r"relative positions is not supported"),
        ("backbone.net.rope_glb.freqs_sin", torch.zeros(64, 16), r"rotary positions of windows span 4\.00, those of"),
    ],
)
def test_what_does_not_fit_vitdet_is_named(name: str, value: Tensor | None, message: str, tmp_path: Path) -> None:
    torch.save(spoilt(to_detectron2(vitdet()), name, value), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"a\.pth: [^!]*{message}"):
        load_detector(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("transformer.enc_output_norm.bias", None, r"missing transformer\.enc_output_norm\.bias"),
        ("query_embed.weight", torch.ones(2, 3), r"unexpected query_embed\.weight \(2, 3\)"),
        ("transformer.pix_trans.weight", None, "of deformable DETRs only DETA is supported"),
        ("backbone.0.body.conv1.weight", None, r"found 0 tensors backbone\.0\."),
        ("class_embed.0.weight", None, r"missing class_embed\.0\.weight"),
        ("class_embed.1.bias", torch.ones(7), r"class_embed\.1\.bias becomes \(7,\), must become \(4,\)"),
        (
            "transformer.encoder.layers.2.norm1.bias",
            torch.ones(32),
            "the encoder has 3 layers, the decoder 2",
        ),
    ],
)
def test_what_does_not_fit_deta_is_named(name: str, value: Tensor | None, message: str, tmp_path: Path) -> None:
    torch.save(spoilt(to_deta(deta(), range(1, 5), 5), name, value), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"a\.pth: [^!]*{message}"):
        load_detector(tmp_path / "a.pth")


def test_all_misfits_are_listed(tmp_path: Path) -> None:
    state = {name: item for name, item in to_detectron2(vitdet()).items() if "mask_fcn" not in name}
    torch.save({**state, "extra": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as raised:
        load_detector(tmp_path / "a.pth")
    lines = str(raised.value).splitlines()
    assert sum("missing roi_heads.mask_head.mask_fcn" in line for line in lines) == 12 and "and 1 more" in lines[-1]


def test_other_files_and_names(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth is neither a detector written by `pe train` nor .* it has a, b"):
        load_detector(tmp_path / "a.pth")
    torch.save(to_detectron2(vitdet()), tmp_path / "b.pth")
    with pytest.raises(ConfigError, match=r"b\.pth has 5 classes, and 2 names were given"):
        load_detector(tmp_path / "b.pth", ["cat", "dog"])
    with pytest.raises(CheckpointError, match="no such file"):
        load_detector(tmp_path / "c.pth")


USUAL = WindowConfig(size=24, span=16)


def test_tables_tell_windows_heads_and_size() -> None:
    state = published_tower(vitdet(), "a.", WINDOW)
    found = describe_backbone(state, "a.", USUAL, 1824)
    assert (found.windows.size, found.windows.span, found.windows.global_blocks) == (4, 4, (1,))
    assert (found.vision.heads, found.vision.grid, found.vision.mlp_width, found.image_size) == (2, 4, 48, 128)
    assert found.vision.layer_scale == 0.1 and not found.vision.class_token


def test_without_tables_the_paper_tells() -> None:
    state = {name: item for name, item in tower("", 24, 24, 114, 16, True).items() if "freqs" not in name}
    found = describe_backbone(state, "", USUAL, 1824)
    assert (found.vision.heads, found.vision.depth, found.image_size) == (16, 50, 1824)
    assert found.windows == WindowConfig(size=24, global_blocks=GLOBAL, span=16)
    state["positional_embedding"] = empty(1, 24**2 + 1, 1536)
    assert describe_backbone(state, "", USUAL, 1824).vision.class_token
    few = {name: item for name, item in state.items() if "resblocks" not in name or ".resblocks.0." in name}
    with pytest.raises(CheckpointError, match="no known model has width 1536 and depth 1"):
        describe_backbone(few, "", USUAL, 1824)


def test_tables_that_are_not_whole() -> None:
    state = published_tower(vitdet(), "a.", WINDOW)
    blocks = {name: item for name, item in state.items() if "attn.rope" not in name}
    with pytest.raises(CheckpointError, match="and no known model has depth 3, so the windows are unknown"):
        describe_backbone(blocks, "a.", USUAL, 1824)
    del state["a.rope_win.freqs_sin"]
    with pytest.raises(CheckpointError, match="need cosines and sines of two patches"):
        describe_backbone(state, "a.", USUAL, 1824)
    with pytest.raises(CheckpointError, match="only towers of Perception Encoder are supported"):
        describe_backbone({"b.x": torch.ones(1)}, "b.", USUAL, 1824)


def test_rows_are_converted_and_become_float32() -> None:
    model = nn.Linear(2, 3)
    state = {
        "w.weight": torch.ones(2, 3, dtype=torch.float16),
        "w.bias": torch.arange(3.0),
        "step.count": torch.ones(1),
    }
    rows = [KeyRow("weight", "w.weight", lambda item: item.T), KeyRow("bias", "w.bias")]
    load_rows(model, state, rows, (r"\.count$",))
    assert model.weight.dtype == torch.float32 and torch.equal(model.weight, torch.ones(3, 2))
    assert torch.equal(model.bias, torch.arange(3.0))


def test_misfits_are_listed() -> None:
    state = {"w.weight": torch.ones(9, 2), "more": torch.ones(4, 5)}
    with pytest.raises(CheckpointError) as raised:
        load_rows(nn.Linear(2, 3), state, [KeyRow("weight", "w.weight"), KeyRow("bias", "w.bias")], ())
    assert [line.strip() for line in str(raised.value).splitlines()] == [
        "these weights do not fit:",
        "w.weight becomes (9, 2), must become (3, 2)",
        "missing w.bias",
        "unexpected more (4, 5)",
    ]


def test_rows_of_a_module() -> None:
    assert rows_of({"a": "b"}) == [KeyRow("a.weight", "b.weight"), KeyRow("a.bias", "b.bias")]


def test_every_tensor_of_mask_rcnn_has_a_row() -> None:
    model = vitdet(lvis=True)
    state = to_detectron2(model)
    check_vitdet(state)
    rows = vitdet_rows(state, masks=True)
    head_names = {f"head.{name}" for name in model.head.state_dict() if "standardize" not in name}
    assert {row.ours for row in rows} == head_names and {row.published for row in rows} <= set(state)
    assert not any("mask" in row.ours for row in vitdet_rows(state, masks=False))


@pytest.mark.parametrize(("classes", "layer_scale", "federated"), [(80, True, False), (1203, False, True)])
def test_the_published_shapes_of_mask_rcnn_fit(classes: int, layer_scale: bool, federated: bool) -> None:
    """PE-Spatial-G has LayerScale, PE-Core-G has none."""
    model, info = published_detector(Path("a.pth"), mask_rcnn(classes, layer_scale, federated))
    assert info.image_size == 1024 and info.masks and len(info.classes) == classes
    assert info.windows is not None and (info.windows.size, info.windows.span) == (32, 32)
    assert model.head.model.roi_heads.score_thresh == (0.02 if federated else 0.05)
    assert (info.classes[0] == "person") == (classes == 80)


def test_lvis_is_told_by_its_classes_too() -> None:
    state = mask_rcnn(1203, True, True)
    del state[FEDERATED]
    config, classes, masks = vitdet_config(state)
    assert (config.federated, config.most, classes, masks) == (50, 300, 1203, True)


def test_every_tensor_of_deta_has_a_row() -> None:
    model = deta()
    state = to_deta(model, range(1, 5), 5)
    config, classes = deta_config(state)
    assert (config.channels, config.layers, config.hidden) == (32, 2, 24) and classes == ClassRows((1, 2, 3, 4), 5)
    rows = deta_rows(find_prefix(state), config.layers, classes)
    head_names = {f"head.{name}" for name in model.head.state_dict() if "standardize" not in name}
    assert {row.ours for row in rows} == head_names and {row.published for row in rows} <= set(state)


def test_the_published_shapes_of_deta_fit() -> None:
    model, info = published_detector(Path("deta_coco_1824pix.pth"), deta_coco())
    assert info.image_size == 1824 and len(info.classes) == 80 and info.task == "detr"
    assert info.windows is not None and (info.windows.size, info.windows.span) == (24, 16)
    assert info.windows.global_blocks == (12, 24, 36, 49)
    assert len(model.head.encoder.layers) == 6 and model.head.config.queries == 900


def test_prefixes() -> None:
    for prefix in ("backbone.0.", "backbone.0.body."):
        assert find_prefix({f"{prefix}conv1.weight": torch.ones(1), "x.conv1.weight": torch.ones(1)}) == prefix
    with pytest.raises(CheckpointError, match="found 2 tensors"):
        find_prefix({"backbone.0.a.conv1.weight": torch.ones(1), "backbone.0.b.conv1.weight": torch.ones(1)})


def test_ids_and_names() -> None:
    classes = coco_classes()
    assert len(classes) == 80 and list(classes) == sorted(classes) and not {0, 12, 26, 66, 83} & set(classes)
    assert (classes[1], classes[13], classes[90]) == ("person", "stop sign", "toothbrush")
