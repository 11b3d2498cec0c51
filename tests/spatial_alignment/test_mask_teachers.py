"""Mask teachers, SAM among them, and the cache of their tokens."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from perception_encoder.errors import DataError, InputError, ModelError, WeightsUnavailableError
from perception_encoder.spatial_alignment.mask_teachers import (
    DEVIATION,
    MEAN,
    Sam,
    TeacherCache,
    grid_points,
    mask_tokens,
    one_hot_masks,
)


def test_a_patch_has_the_shares_of_its_masks() -> None:
    ids = torch.zeros(8, 8, dtype=torch.long)
    ids[:, 4:] = 7
    tokens = mask_tokens(one_hot_masks(ids), (1, 2))
    assert tokens.tolist() == [[1, 0], [0, 1]]
    ids[:, 3] = 7
    assert mask_tokens(one_hot_masks(ids), (1, 2)).tolist() == [[0.75, 0.25], [0, 1]]


def test_logits_of_any_resolution_are_brought_to_the_grid() -> None:
    logits = torch.arange(16.0).view(4, 4, 1).repeat(1, 1, 3)
    assert mask_tokens(logits, (4, 4))[:, 2].tolist() == list(range(16))
    assert mask_tokens(logits, (8, 8)).shape == (64, 3)


def tiny_sam() -> Any:
    from transformers import Sam2Config, Sam2Model

    backbone = {
        "hidden_size": 8,
        "num_attention_heads": 1,
        "blocks_per_stage": [1, 2, 2, 2],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [8, 4, 14, 7],
        "global_attention_blocks": [4],
        "image_size": [128, 128],
        "model_type": "sam2_hiera_det_model",
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "fpn_hidden_size": 16,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }
    prompts = {"hidden_size": 16, "image_size": 128, "patch_size": 16}
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    torch.manual_seed(0)
    return Sam2Model(config).eval()


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_sam()


@torch.no_grad()
def test_each_point_has_the_logits_of_a_call_of_its_own(model: Any) -> None:
    image = torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    masks = Sam(model, points=9).masks(image)  # 81 points, in two passes
    assert masks.shape == (32, 32, 81)
    mean, deviation = (torch.tensor(item)[:, None, None] for item in (MEAN, DEVIATION))
    pixels = ((image[None].float() / 255) - mean) / deviation
    points = grid_points(9, 128)
    for number in (0, 40, 80):
        alone = model(pixel_values=pixels, input_points=points[None, None, None, number], multimask_output=False)
        torch.testing.assert_close(masks[..., number], alone.pred_masks[0, 0, 0], atol=1e-4, rtol=1e-4)


def test_a_directory_is_loaded(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "sam")
    teacher = Sam.load(str(tmp_path / "sam"), torch.device("cpu"))
    assert teacher.points == 32 and teacher.identity == Sam(model).identity
    with pytest.raises(WeightsUnavailableError, match=r"no SAM 2\.1 can be loaded from"):
        Sam.load(str(tmp_path / "none"), torch.device("cpu"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [("missing", "lacks the weights no_memory"), ("cut", "lacks the weights no_memory"), ("file", "no SAM 2.1 can be")],
)
def test_a_damaged_teacher_is_refused(damage: str, reason: str, model: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model.save_pretrained(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    tensors = load_file(path)
    lost = tensors.pop(max(key for key in tensors if key.startswith("no_memory")))
    if damage == "cut":
        tensors["no_memory_embedding"] = lost[..., :-1].contiguous()
    save_file(tensors, path, {"format": "pt"})
    if damage == "file":
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match=reason):
        Sam.load(str(tmp_path), torch.device("cpu"))


def test_a_teacher_is_told_by_its_weights(model: Any) -> None:
    """Two directories of one name, such as `sam`, are different teachers for a cache of masks."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    assert len({Sam(model).identity, Sam(other).identity, Sam(model, points=3).identity}) == 3


SETTINGS = {"teacher": "t", "seed": 0, "augmentation": {"scale": (0.1, 1.0)}}


def create(path: Path, **settings: object) -> TeacherCache:
    cache = TeacherCache(path / "masks", {**SETTINGS, **settings}, create=True)
    cache.close()  # as another process would find it
    return cache


def test_tokens_come_back_in_half_precision(tmp_path: Path) -> None:
    cache, tokens = create(tmp_path), torch.rand(6, 5)
    cache.put("a", 1, tokens)
    assert ("a", 1) in cache and ("a", 0) not in cache and len(cache) == 1
    torch.testing.assert_close(cache.get("a", 1, 6, "a.png"), tokens.half().float())
    again = TeacherCache(tmp_path / "masks", {"seed": 0})
    assert again.identity == "t" and len(again) == 1
    with pytest.raises(InputError, match=r"a\.png: has no masks in"):
        again.get("a", 0, 6, "a.png")
    with pytest.raises(InputError, match="have 6 tokens, not 4; delete it and run"):
        again.get("a", 1, 4, "a.png")


def test_a_missing_cache_and_damaged_masks_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"masks has no settings\.json"):
        TeacherCache(tmp_path / "masks", SETTINGS)
    create(tmp_path).put("b", 0, torch.rand(2, 2))
    (tmp_path / "masks" / "masks.bin").write_bytes(b"1234567890123456789012345")
    with pytest.raises(InputError, match="b: its masks are damaged"):
        TeacherCache(tmp_path / "masks", SETTINGS).get("b", 0, 2, "b")
