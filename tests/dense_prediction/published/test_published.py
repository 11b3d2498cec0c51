"""Detectors in the layouts of the published files load back to equal detections, and what does not fit is listed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from perception_encoder.dense_prediction.dense_model import DenseModel, HeadInfo
from perception_encoder.dense_prediction.detection.detections import Detected
from perception_encoder.dense_prediction.heads import Views, detect_objects, load_head
from perception_encoder.dense_prediction.published_detectors import FEDERATED, coco_classes, published_detector
from perception_encoder.errors import CheckpointError, ConfigError
from tests.dense_prediction.published.renamed import (
    SIDE,
    deta,
    rope_tables,
    to_deta,
    to_detectron2,
    use_small_towers,
    vitdet,
)
from tests.dense_prediction.published.shapes import GLOBAL, deta_coco, mask_rcnn

IMAGE = Image.fromarray(np.random.default_rng(3).integers(0, 255, (90, 160, 3), np.uint8))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_towers(monkeypatch)


def load_detector(path: Path, classes: Path | None = None) -> tuple[DenseModel, HeadInfo]:
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
    assert other.boxes.min() >= 0 and other.boxes[:, 2].max() <= 160 and other.boxes[:, 3].max() <= 90


@pytest.mark.parametrize("masks", [True, False])
def test_mask_rcnn_of_vitdet(masks: bool, small: None, tmp_path: Path) -> None:
    model = vitdet(masks=masks)
    tensors = {name: tensor.clone().contiguous() for name, tensor in to_detectron2(model).items()}
    save_file(tensors, tmp_path / "a.safetensors")
    loaded, info = load_detector(tmp_path / "a.safetensors")
    agree(detected(model), detected(loaded))
    agree(detected(model, Views(flip=True)), detected(loaded, Views(flip=True)))
    assert (info.task, info.masks, info.classes) == ("detection", masks, ("1", "2", "3", "4", "5"))
    assert (info.image_size, info.layer) == (SIDE, 2)
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())


def test_lvis_and_a_tower_without_layer_scale(small: None, tmp_path: Path) -> None:
    """As PE-Core's: sigmoids, and the weights of the federated loss."""
    model = vitdet(lvis=True, layer_scale=False)
    torch.save({"model": to_detectron2(model), "iteration": 3}, tmp_path / "a.pth")
    categories = [{"id": 7 - number, "name": name} for number, name in enumerate("abcde")]
    (tmp_path / "lvis.json").write_text(json.dumps({"categories": categories}))
    loaded, info = load_detector(tmp_path / "a.pth", tmp_path / "lvis.json")
    agree(detected(model), detected(loaded))
    assert info.head["federated"] == 50 and (info.head["least_score"], info.head["most"]) == (0.02, 300)
    ours, other = (item.head.model.roi_heads.class_weights for item in (model, loaded))
    assert torch.equal(ours, other)
    assert (info.classes, info.class_ids) == (("e", "d", "c", "b", "a"), (3, 4, 5, 6, 7))


def test_deta_of_coco_has_gaps_in_its_numbers(small: None, tmp_path: Path) -> None:
    """The file of a training run, which has its options too."""
    model = deta()
    options = argparse.Namespace(lr=1e-4, backbone="pev1")
    torch.save({"model": to_deta(model), "args": options, "epoch": 2}, tmp_path / "deta.pth")
    loaded, info = load_detector(tmp_path / "deta.pth")
    agree(detected(model), detected(loaded))
    assert (info.task, info.image_size, loaded.backbone.inputs.margin) == ("detr", SIDE, 32)
    assert (info.classes[0], info.classes[11], info.classes[79]) == ("person", "stop sign", "toothbrush")
    assert list(info.class_ids) == list(coco_classes()) and not {0, 12, 26, 66, 83} & set(info.class_ids)


@pytest.mark.parametrize(
    ("layout", "name", "value", "message"),
    [
        ("vitdet", "roi_heads.box_head.conv1.norm.bias", None, r"missing roi_heads\.box_head\.conv1\.norm\.bias"),
        ("vitdet", "roi_heads.keypoint_head.weight", torch.ones(2, 3), r"unexpected roi_heads\.keypoint_.* \(2, 3\)"),
        ("vitdet", "backbone.simfp_5.1.weight", torch.ones(8, 9, 1, 1), r"simfp_5\.1\.weight becomes \(8, 9, 1, 1\)"),
        ("vitdet", "backbone.net.positional_embedding", None, r"missing backbone\.net\.positional_embedding"),
        ("vitdet", "roi_heads.box_head.fc1.weight", None, r"missing roi_heads\.box_head\.fc1\.weight"),
        (
            "deta",
            "backbone.0.body.rope_glb",
            rope_tables(8, 4),
            "rope_glb has other rotary positions than those of 8x8",
        ),
        (  # the block attends within windows
            "vitdet",
            "backbone.net.transformer.resblocks.1.attn.rope",
            rope_tables(4, 4),
            r"resblocks\.1\.attn\.rope has other rotary positions than those of 8x8 patches",
        ),
        ("deta", "transformer.enc_output_norm.bias", None, r"missing transformer\.enc_output_norm\.bias"),
        ("deta", "query_embed.weight", torch.ones(2, 3), r"unexpected query_embed\.weight \(2, 3\)"),
        ("deta", "transformer.pix_trans.weight", None, r"missing transformer\.pix_trans\.weight"),
        ("deta", "backbone.0.body.conv1.weight", None, r"found 0 tensors backbone\.0\."),
        ("deta", "backbone.0.more.conv1.weight", torch.ones(1), r"found 2 tensors backbone\.0\."),
        ("deta", "class_embed.0.weight", torch.ones(7, 32), "has 7 rows; only COCO's 91 are supported"),
        ("deta", "class_embed.1.bias", torch.ones(7), r"class_embed\.1\.bias becomes \(7,\); it must become \(80,\)"),
    ],
)
def test_what_does_not_fit_is_named(
    layout: str, name: str, value: Tensor | dict[str, Tensor] | None, message: str, small: None, tmp_path: Path
) -> None:
    state = to_detectron2(vitdet()) if layout == "vitdet" else to_deta(deta())
    state.pop(name, None)
    if isinstance(value, dict):
        state |= {f"{name}.{part}": table for part, table in value.items()}
    elif value is not None:
        state[name] = value
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"a\.pth: [^!]*{message}"):
        load_detector(tmp_path / "a.pth")


def test_all_mismatches_are_listed(small: None, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in to_detectron2(vitdet()).items() if "mask_fcn" not in name}
    torch.save({**state, "extra": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as raised:
        load_detector(tmp_path / "a.pth")
    lines = str(raised.value).splitlines()
    assert sum("missing roi_heads.mask_head.mask_fcn" in line for line in lines) == 12 and "and 1 more" in lines[-1]


def test_other_files_and_names(small: None, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth is neither"):
        load_detector(tmp_path / "a.pth")
    torch.save(to_detectron2(vitdet()), tmp_path / "b.pth")
    (tmp_path / "coco.json").write_text(json.dumps({"categories": [{"id": 1, "name": "cat"}]}))
    with pytest.raises(ConfigError, match=r"b\.pth has 5 classes, and 1 names"):
        load_detector(tmp_path / "b.pth", tmp_path / "coco.json")
    with pytest.raises(CheckpointError, match="no such file"):
        load_detector(tmp_path / "c.pth")


@pytest.mark.parametrize(("classes", "layer_scale", "federated"), [(80, True, False), (1203, False, True)])
def test_the_published_shapes_of_mask_rcnn_fit(classes: int, layer_scale: bool, federated: bool) -> None:
    """PE-Spatial-G has LayerScale, PE-Core-G has none. LVIS is told by its classes, too."""
    state = mask_rcnn(classes, layer_scale, federated)
    for tensors in (state, {name: tensor for name, tensor in state.items() if name != FEDERATED}):
        model, info = published_detector(Path("a.pth"), tensors)
        assert info.image_size == 1024 and info.masks and len(info.classes) == classes
        assert info.windows is not None and (info.windows.size, info.windows.global_blocks) == (32, GLOBAL)
        assert model.head.model.roi_heads.score_thresh == (0.02 if federated else 0.05)
        assert (info.head["federated"], info.head["most"]) == ((50, 300) if federated else (None, 100))
        assert (info.classes[0] == "person") == (classes == 80)


def test_the_published_shapes_of_deta_fit() -> None:
    model, info = published_detector(Path("deta_coco_1824pix.pth"), deta_coco())
    assert info.image_size == 1824 and len(info.classes) == 80 and info.task == "detr"
    assert info.windows is not None and (info.windows.size, info.windows.span) == (24, 16)
    assert info.windows.global_blocks == GLOBAL
    assert len(model.head.encoder.layers) == 6 and model.head.config.queries == 900
