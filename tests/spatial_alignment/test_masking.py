"""What is hidden from the student."""

from __future__ import annotations

import pytest
import torch

from perception_encoder.errors import ConfigError
from perception_encoder.spatial_alignment.config import BlockMasking


def test_three_quarters_are_hidden_in_blocks_of_two_by_two() -> None:
    hidden = BlockMasking().draw(5, (8, 12), torch.Generator().manual_seed(0))
    assert hidden.shape == (5, 96) and hidden.sum(1).tolist() == [72] * 5
    blocks = hidden.view(5, 4, 2, 6, 2).transpose(2, 3).flatten(3)
    assert (blocks.all(-1) | ~blocks.any(-1)).all()
    assert len({tuple(row.tolist()) for row in hidden}) == 5


def test_a_grid_that_is_no_multiple_of_the_block_has_smaller_blocks_at_its_edges() -> None:
    hidden = BlockMasking(share=0.5, block=2).draw(1, (3, 3), torch.Generator().manual_seed(1)).view(3, 3)
    assert hidden[0, 0] == hidden[0, 1] == hidden[1, 0] == hidden[1, 1]
    assert hidden[2, 0] == hidden[2, 1] and hidden[0, 2] == hidden[1, 2]


def test_the_same_generator_draws_the_same() -> None:
    draws = [BlockMasking().draw(2, (4, 4), torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("settings", [{"share": 1.0}, {"share": -0.1}, {"block": 0}])
def test_settings_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"masking.{next(iter(settings))}"):
        BlockMasking(**settings)
