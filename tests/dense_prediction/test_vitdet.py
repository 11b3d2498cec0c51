"""The detection backbone: parity with the reference, windows, tiled positions, scaled rotary positions."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from perception_encoder.dense_prediction.vitdet import (
    ViTDetBackbone,
    WindowConfig,
    from_windows,
    to_windows,
    vitdet_backbone,
)
from perception_encoder.errors import ConfigError, ShapeError
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.layers import drop_path
from perception_encoder.models.vision_transformer import VisionTransformer
from tests.golden_weights import golden_image, golden_state

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "vitdet.npz")
NAME = re.compile(
    r"vitdet/seed(\d+)_img(\d+)_win(\d+)_width(\d+)_depth(\d+)_heads(\d+)_global([\d,]+)_pretrain(\d+)_cls(\d)_ls(\d)_tile1"
)


def tower_config(width: int = 32, depth: int = 3, heads: int = 2, size: int = 64, **rest: object) -> VisionConfig:
    return VisionConfig(
        image_size=size,
        patch_size=16,
        width=width,
        depth=depth,
        heads=heads,
        mlp_width=4 * width,
        attention_pool=False,
        final_norm=False,
        **rest,
    )


def with_golden_weights(model: ViTDetBackbone) -> ViTDetBackbone:
    model.load_state_dict(golden_state({name: tuple(item.shape) for name, item in model.state_dict().items()}))
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("key", GOLDEN.files)
def test_golden(key: str) -> None:
    match = NAME.fullmatch(key)
    assert match is not None
    seed, side, window, width, depth, heads = map(int, match.groups()[:6])
    blocks, size, class_token, scaled = match[7].split(","), *(int(match[at]) for at in (8, 9, 10))
    config = tower_config(width, depth, heads, size, class_token=bool(class_token), layer_scale=0.1 if scaled else None)
    windows = WindowConfig(size=window, global_blocks=tuple(map(int, blocks)))
    model = with_golden_weights(ViTDetBackbone(config, side, windows))
    ours = model(golden_image(seed, 1, 3, side, side)).numpy()
    assert ours.shape == GOLDEN[key].shape
    assert np.linalg.norm(ours - GOLDEN[key]) / np.linalg.norm(GOLDEN[key]) < 1e-4


def backbone(window: int, global_blocks: list[int], side: int = 128, **rest: object) -> ViTDetBackbone:
    windows = WindowConfig(size=window, global_blocks=tuple(global_blocks))
    return with_golden_weights(ViTDetBackbone(tower_config(**rest), side, windows))


@torch.no_grad()
def test_a_window_over_the_whole_image_is_global_attention_and_the_plain_tower() -> None:
    pixels = golden_image(1, 2, 3, 64, 64)
    windowed, everywhere = (backbone(4, blocks, side=64, class_token=False) for blocks in ([], [0, 1, 2]))
    expected = windowed(pixels)
    torch.testing.assert_close(everywhere(pixels), expected)
    tower = VisionTransformer(windowed.config)
    tower.load_state_dict(windowed.state_dict())
    tokens = tower.forward_features(pixels, norm=False)
    torch.testing.assert_close(expected, tokens.transpose(1, 2).unflatten(2, (4, 4)), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_windows_see_nothing_of_each_other() -> None:
    model, pixels = backbone(4, []), golden_image(2, 1, 3, 128, 128)
    changed = pixels.clone()
    changed[..., :64, :64] = 0
    before, after = model(pixels), model(changed)
    assert not torch.allclose(before[..., :4, :4], after[..., :4, :4])
    torch.testing.assert_close(before[..., 4:], after[..., 4:])
    assert not torch.allclose(backbone(4, [1])(pixels)[..., 4:], backbone(4, [1])(changed)[..., 4:])


def test_windows_of_any_grid_are_put_back_together() -> None:
    maps = torch.arange(2 * 5 * 7 * 3.0).view(2, 5, 7, 3)
    windows = to_windows(maps, 4)
    assert windows.shape == (2 * 2 * 2, 4, 4, 3)
    assert torch.equal(windows[1, :, :3], maps[0, :4, 4:]) and not windows[1, :, 3].any()
    assert torch.equal(from_windows(windows, 5, 7), maps)


@torch.no_grad()
def test_positions_of_another_span() -> None:
    """Half as many rotary positions in all blocks: as if the frequencies were halved."""
    usual, half = backbone(4, [1], side=128), backbone(4, [1], side=128)
    half.span = 2
    pixels = golden_image(1, 1, 3, 128, 128)
    assert not torch.allclose(usual(pixels), half(pixels), atol=1e-3)
    steps: list[float] = []
    rope = ViTDetBackbone._rope
    half._rope = lambda rows, columns, step, device: steps.append(step) or rope(half, rows, columns, step, device)  # type: ignore[method-assign,func-returns-value]
    half(pixels)
    assert steps == [0.5, 0.25, 0.5]


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_flow_with_recomputation_and_stochastic_depth(frozen: bool) -> None:
    """From the blocks to the stem; to all weights of the blocks if the stem is frozen."""
    gradients = []
    for checkpointing in (False, True):
        model = backbone(4, [1], layer_scale=0.1)
        model.transformer.checkpointing = checkpointing
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not frozen or name.startswith("transformer."))
        branches = drop_path(3, 2, 0.5, torch.Generator().manual_seed(0))
        model(golden_image(3, 2, 3, 96, 128), branches).square().mean().backward()
        gradients.append({name: item.grad for name, item in model.named_parameters() if item.requires_grad})
    assert ("conv1.weight" in gradients[0]) != frozen and None not in gradients[0].values()
    torch.testing.assert_close(*gradients)


def test_sizes_that_do_not_fit() -> None:
    config, windows = tower_config(), WindowConfig(size=4, global_blocks=())
    with pytest.raises(ConfigError, match="image_size is 100"):
        ViTDetBackbone(config, 100, windows)
    with pytest.raises(ConfigError, match="global block 3 does not exist"):
        ViTDetBackbone(config, 128, replace(windows, global_blocks=(3,)))
    model = ViTDetBackbone(config, 128, windows)
    with pytest.raises(ShapeError, match="images are 100x128"):
        model(torch.zeros(1, 3, 100, 128))


@torch.no_grad()
def test_a_pretrained_tower_gives_its_map() -> None:
    """With windows over the whole image it is the tower's own; of another patch size the kernel is resampled."""
    tower = create_model("PE-Spatial-T16-512")
    tower.truncate(2)
    tower.set_image_size(64)
    pixels, windows = golden_image(1, 2, 3, 64, 64), WindowConfig(size=4, global_blocks=(1,))
    copied = vitdet_backbone(tower, 64, windows)
    expected = tower.forward_features(pixels, norm=False)[:, tower.num_prefix_tokens :]
    with torch.no_grad():
        first = copied.positions((4, 4))
    assert torch.equal(first.flatten(0, 1), tower.positional_embedding[tower.num_prefix_tokens :])
    if not tower.config.class_token:
        torch.testing.assert_close(copied(pixels).flatten(2).transpose(1, 2), expected, atol=1e-4, rtol=1e-4)
    coarse = vitdet_backbone(tower, 128, replace(windows, patch_size=32))
    assert coarse.conv1.weight.shape[-2:] == (32, 32) and coarse(golden_image(1, 1, 3, 128, 96)).shape[-2:] == (4, 3)
    assert coarse.config.image_size == 128
