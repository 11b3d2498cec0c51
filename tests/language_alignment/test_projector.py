"""The projector, against the published PLM's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from perception_encoder.errors import ConfigError, ShapeError
from perception_encoder.language_alignment.projector import Projector
from tests.golden_weights import golden_image, golden_tensor

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "plm.npz")


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("projector/")])
def test_outputs_are_those_of_the_reference(name: str) -> None:
    seed, grid, width, dim, pool = map(int, re.findall(r"\d+", name))
    projector = Projector(width, dim, pool)
    for key, parameter in projector.named_parameters():
        parameter.data = golden_tensor(key, tuple(parameter.shape))
    tokens = golden_image(seed, 2, grid**2, width)
    np.testing.assert_allclose(projector(tokens).detach().numpy(), GOLDEN[name], rtol=1e-4, atol=1e-5)


def test_a_grid_that_is_not_square_is_pooled_by_rows_and_columns() -> None:
    projector = Projector(4, 4, pool=2, linear=True)
    torch.nn.init.eye_(projector.projector[0].weight)
    torch.nn.init.zeros_(projector.projector[0].bias)
    tokens = torch.arange(2 * 6 * 4, dtype=torch.float32).view(1, 12, 4)
    image = tokens.view(2, 6, 4)
    expected = torch.stack([image[:, column : column + 2].mean((0, 1)) for column in (0, 2, 4)])
    torch.testing.assert_close(projector(tokens, (2, 6))[0], expected)
    assert projector.tokens_of((2, 6)) == 3


def test_an_odd_side_is_rounded_down_and_never_to_zero() -> None:
    projector = Projector(4, 4, pool=2)
    assert projector(torch.zeros(1, 15, 4), (5, 3)).shape == (1, 2, 4)
    assert projector(torch.zeros(1, 3, 4), (1, 3)).shape == (1, 1, 4)


def test_tokens_that_do_not_fill_the_grid_are_an_error() -> None:
    with pytest.raises(ShapeError, match="12 tokens do not fill a grid of 3 x 3; give their grid"):
        Projector(4, 4)(torch.zeros(1, 12, 4))
    with pytest.raises(ConfigError, match="must be at least 1"):
        Projector(4, 4, pool=0)
