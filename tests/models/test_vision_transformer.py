"""The vision tower: any size, layers, truncation, checkpointing, and the reference code's defects, gone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from perception_encoder.errors import ConfigError, ShapeError
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.vision_transformer import VisionTransformer
from tests.models.small import KINDS, PATCH, TOKENS, WITHOUT_ROPE, random_images, small_tower

kinds = pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)


@kinds
@torch.no_grad()
def test_any_multiple_of_the_patch(config: VisionConfig) -> None:
    tower = small_tower(config)
    for height, width in ((32, 32), (8, 8), (8, 80), (56, 40)):
        x = random_images(2, 3, height, width)
        n = height * width // PATCH**2 + config.class_token
        assert tower.forward_features(x).shape == (2, n, 32)
        assert tower(x).shape == ((2, 16) if config.output_dim else (2, n, 32))
        (feature,) = tower.forward_intermediates(x, [-1], intermediates_only=True)
        assert feature.shape == (2, 32, height // PATCH, width // PATCH)


@pytest.mark.parametrize(
    ("size", "advice"),
    [((32, 33), "32x32"), ((3, 8), "8x8"), ((45, 8), "48x8")],
)
def test_other_sizes_are_refused_not_cropped(size: tuple[int, int], advice: str) -> None:
    for call in (lambda t, x: t(x), lambda t, x: t.forward_features(x), lambda t, x: t.forward_intermediates(x)):
        with pytest.raises(ShapeError, match=f"{size[0]}x{size[1]} is not a multiple of the patch size 8; .*{advice}"):
            call(small_tower(), random_images(1, 3, *size))


@torch.no_grad()
@pytest.mark.parametrize(
    ("indices", "stop_early", "expected"),
    [([1, 0], True, [0, 1]), (1, True, [0, 1, 2]), ([0], False, [0, 1, 2])],
)
def test_stopping_early_runs_no_later_layer(indices: list[int] | int, stop_early: bool, expected: list[int]) -> None:
    tower, ran = small_tower(), []
    for index, block in enumerate(tower.transformer.resblocks):
        block.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
    tower.forward_intermediates(random_images(1, 3, 32, 32), indices, stop_early=stop_early, intermediates_only=True)
    assert ran == expected


def test_options_that_do_not_exist_are_refused() -> None:
    tower = small_tower()
    with pytest.raises(ConfigError, match="'NCHW' or 'NLC'"):
        tower.forward_intermediates(random_images(1, 3, 32, 32), output_fmt="NHWC")
    for layer in (3, -4):
        with pytest.raises(ConfigError, match=f"layer {layer} does not exist; small has layers 0 to 2"):
            tower.truncate(layer)
    assert len(tower.transformer.resblocks) == 3


@pytest.mark.parametrize(("layer", "depth"), [(0, 1), (-2, 2)])
@torch.no_grad()
def test_truncation_keeps_the_layers_up_to_one(layer: int, depth: int) -> None:
    tower = small_tower()
    x = random_images(2, 3, 32, 32)
    (expected,) = tower.forward_intermediates(x, [layer], output_fmt="NLC", intermediates_only=True)
    assert tower.truncate(layer) is tower
    assert tower.config.depth == len(tower.transformer.resblocks) == depth
    torch.testing.assert_close(tower(x)[:, 1:], expected)
    assert not any(name.startswith(("ln_post", "attn_pool", "proj")) for name in tower.state_dict())
    again = VisionTransformer(tower.config)
    again.load_state_dict(tower.state_dict())  # the config tells the whole of it
    torch.testing.assert_close(again(x), tower(x))


@kinds
def test_gradient_checkpointing_changes_no_gradient(config: VisionConfig) -> None:
    tower = small_tower(config).train()
    runs = []
    for enable in (False, True):
        tower.set_grad_checkpointing(enable)
        tower.zero_grad()
        x = random_images(2, 3, 40, 24).requires_grad_()
        tower(x).square().sum().backward()
        runs.append([x.grad, *(parameter.grad.clone() for parameter in tower.parameters())])
        final, layers = tower.forward_intermediates(x, [0, 2])
        (final.sum() + layers[0].sum()).backward()
    for plain, checkpointed in zip(*runs, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_inference_first_then_training() -> None:
    tower, x = small_tower(TOKENS), random_images(1, 3, 88, 16)
    with torch.inference_mode():
        before = tower(x)
    after = tower(x)
    after.sum().backward()
    torch.testing.assert_close(after.detach(), before.clone())
    assert all(parameter.grad is not None for parameter in tower.parameters())


@torch.no_grad()
def test_threads_with_different_sizes_do_not_disturb_each_other() -> None:
    tower = small_tower()
    batches = [random_images(2, 3, PATCH * h, PATCH * w, seed=h * w) for h in range(1, 7) for w in range(1, 7)]
    alone = [tower(x) for x in batches]
    order = [index * 11 % len(batches) for index in range(4 * len(batches))]

    @torch.no_grad()
    def run(index: int) -> bool:
        return torch.allclose(tower(batches[index]), alone[index], atol=1e-6)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(run, order))


def test_blocks_hold_no_positions_of_their_own() -> None:
    """All state is in the parameters, so a copy or a pickle of the model is complete, and small."""
    tower = small_tower()
    assert list(tower.buffers()) == []
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    attributes = [dict(vars(block.attn)) for block in tower.transformer.resblocks]
    tower(random_images(1, 3, 48, 16))
    assert [dict(vars(block.attn)) for block in tower.transformer.resblocks] == attributes
    assert all(torch.equal(tower.state_dict()[name], tensor) for name, tensor in before.items())


def test_layer_scale_is_put_into_a_tower_once() -> None:
    tower = small_tower(WITHOUT_ROPE)
    images = random_images(2, 3, 4 * PATCH, 4 * PATCH)
    before = tower.forward_features(images)
    assert tower.add_layer_scale(0.1).config.layer_scale == 0.1
    torch.testing.assert_close(tower.forward_features(images), before, atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match=r"has LayerScale already, of 0\.1"):
        tower.add_layer_scale(0.1)
