"""SAM 2.1 as a mask teacher: a grid of points, one mask each, on a tiny random model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from perception_encoder.errors import WeightsUnavailableError
from perception_encoder.spatial_alignment.mask_teachers import DEVIATION, MEAN, Sam, find_mask_teacher, grid_points


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


def test_points_are_the_middles_of_cells() -> None:
    assert grid_points(2, 8).tolist() == [[2, 2], [6, 2], [2, 6], [6, 6]]


@torch.no_grad()
def test_each_point_has_the_logits_of_a_call_of_its_own(model: Any) -> None:
    image = torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    masks = Sam("tiny", model, points=9).masks(image)  # 81 points, in two passes
    assert masks.shape == (32, 32, 81)
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
    pixels = ((image[None].float() / 255) - mean) / deviation
    points = grid_points(9, 128)
    for number in (0, 40, 80):
        alone = model(pixel_values=pixels, input_points=points[None, None, None, number], multimask_output=False)
        torch.testing.assert_close(masks[..., number], alone.pred_masks[0, 0, 0], atol=1e-4, rtol=1e-4)


def test_a_directory_is_loaded(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "sam")
    teacher = find_mask_teacher(str(tmp_path / "sam"), torch.device("cpu"))
    assert isinstance(teacher, Sam) and teacher.points == 32 and "32" in teacher.identity
    with pytest.raises(WeightsUnavailableError, match=r"no SAM 2\.1 can be loaded from"):
        find_mask_teacher(str(tmp_path / "none"), torch.device("cpu"))


def test_a_teacher_is_told_by_its_weights(model: Any) -> None:
    """Two directories of one name, such as `sam`, are different teachers for a cache of masks."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    assert Sam("sam", model).identity == Sam("elsewhere/sam", model).identity
    assert len({Sam("sam", model).identity, Sam("sam", other).identity, Sam("sam", model, points=3).identity}) == 3
