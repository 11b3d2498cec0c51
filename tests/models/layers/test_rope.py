"""Rotary positions against their definition, and the table's independence of who asks for it, and when."""

from __future__ import annotations

import cmath
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from perception_encoder.models.layers.rope import rope_table, rotate

CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def defined(x: Tensor, grid: tuple[int, int], class_token: bool) -> Tensor:
    """The definition, a complex number at a time: PAPER §2.4."""
    n, head_dim = x.shape
    half = head_dim // 2
    result = torch.empty_like(x)
    for token in range(n):
        patch = token - int(class_token)
        column, row = (patch % grid[1] + class_token, patch // grid[1] + class_token) if patch >= 0 else (0, 0)
        for pair in range(half):
            position, i = (column, pair) if pair < half // 2 else (row, pair - half // 2)
            turn = cmath.exp(1j * position * 10000 ** (-2 * i / half))
            turned = complex(x[token, 2 * pair], x[token, 2 * pair + 1]) * turn
            result[token, 2 * pair], result[token, 2 * pair + 1] = turned.real, turned.imag
    return result


@pytest.mark.parametrize("class_token", [True, False])
def test_rotation_is_as_defined(class_token: bool) -> None:
    grid, head_dim = (3, 5), 16
    x = noise(15 + class_token, head_dim)
    rotated = rotate(x[None, None], rope_table(grid, head_dim, class_token, CPU))[0, 0]
    torch.testing.assert_close(rotated, defined(x, grid, class_token), rtol=1e-5, atol=1e-5)


def test_class_token_does_not_turn() -> None:
    x = noise(1, 1, 7, 16)
    assert torch.equal(rotate(x, rope_table((2, 3), 16, True, CPU))[..., 0, :], x[..., 0, :])


def test_first_patch_turns_only_beside_a_class_token() -> None:
    x = noise(1, 1, 6, 16)
    assert torch.equal(rotate(x, rope_table((2, 3), 16, False, CPU))[..., 0, :], x[..., 0, :])
    with_class = rotate(noise(1, 1, 7, 16), rope_table((2, 3), 16, True, CPU))
    assert not torch.allclose(with_class[..., 1, :], noise(1, 1, 7, 16)[..., 1, :])


def test_products_depend_on_the_offset_alone() -> None:
    q, k = noise(16, seed=1).expand(1, 1, 24, 16), noise(16, seed=2).expand(1, 1, 24, 16)
    table = rope_table((4, 6), 16, False, CPU)
    products = (rotate(q, table) @ rotate(k, table).transpose(-1, -2))[0, 0].unflatten(0, (4, 6)).unflatten(2, (4, 6))
    torch.testing.assert_close(products[0, 0, 1, 2], products[2, 3, 3, 5], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(products[0, 0, 1, 2], products[0, 0, 2, 1])


@pytest.mark.parametrize("class_token", [True, False])
def test_gradient_is_the_rotation_back(class_token: bool) -> None:
    table = rope_table((2, 2), 8, class_token, CPU)
    x = noise(1, 2, 4 + class_token, 8).double().requires_grad_()
    gradient = noise(1, 2, 4 + class_token, 8, seed=3).double()
    (received,) = torch.autograd.grad(rotate(x, table), x, gradient)
    torch.testing.assert_close(rotate(received, table), gradient, rtol=1e-5, atol=1e-5)


def test_lengths_are_kept_and_half_precision_is_rotated_in_float32() -> None:
    table = rope_table((5, 7), 32, True, CPU)
    x = noise(2, 3, 36, 32).bfloat16()
    rotated = rotate(x, table)
    assert rotated.dtype == torch.bfloat16
    assert torch.equal(rotated, rotate(x.float(), table).bfloat16())
    torch.testing.assert_close(rotated.float().norm(dim=-1), x.float().norm(dim=-1), rtol=1e-2, atol=1e-2)


def test_a_table_of_inference_serves_training() -> None:
    grid = (11, 13)  # used nowhere else, so that inference computes it
    with torch.inference_mode():
        rotate(noise(1, 1, 143, 8), rope_table(grid, 8, False, CPU))
    x = noise(1, 1, 143, 8).requires_grad_()
    rotate(x, rope_table(grid, 8, False, CPU)).sum().backward()
    assert x.grad is not None


def test_tables_are_not_changed_by_use_nor_by_other_threads() -> None:
    grids = [(h, w) for h in range(1, 9) for w in range(1, 9)]
    x = {grid: noise(1, 2, grid[0] * grid[1] + 1, 16) for grid in grids}
    alone = {grid: rotate(x[grid], rope_table(grid, 16, True, CPU)) for grid in grids}

    def turn(index: int) -> bool:
        grid = grids[index * 7 % len(grids)]
        return torch.equal(rotate(x[grid], rope_table(grid, 16, True, CPU)), alone[grid])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(turn, range(512)))


def test_a_table_is_computed_once() -> None:
    assert rope_table((9, 4), 8, True, CPU) is rope_table((9, 4), 8, True, CPU)


def test_a_default_dtype_or_device_does_not_reach_the_table() -> None:
    reference = rope_table((6, 2), 8, True, CPU)
    with torch.device("meta"):
        assert rope_table((2, 6), 8, True, CPU).device == CPU
    assert reference.dtype == torch.float32
