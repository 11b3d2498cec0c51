"""Mixed images: what is pasted and blended, and how much of itself each keeps."""

from __future__ import annotations

import pytest
import torch

from perception_encoder.errors import ConfigError
from perception_encoder.preprocess.mixing import MIXING_DRAWS, Mixing, mix

SIZE = 16
BLACK, WHITE = (
    torch.zeros(64, 3, SIZE, SIZE, dtype=torch.uint8),
    torch.full((64, 3, SIZE, SIZE), 255, dtype=torch.uint8),
)


def draws(seed: int = 0) -> torch.Tensor:
    return torch.rand(len(BLACK), MIXING_DRAWS, generator=torch.Generator().manual_seed(seed))


def test_nothing_is_mixed_where_nothing_shall_be() -> None:
    mixed, kept = mix(BLACK, WHITE, Mixing(share=0.0), draws())
    assert torch.equal(mixed, BLACK) and kept.eq(1).all()


def test_a_pasted_piece_is_a_square_as_large_as_what_is_not_kept() -> None:
    mixed, kept = mix(BLACK, WHITE, Mixing(share=1.0, pasted=1.0), draws())
    assert set(mixed.unique().tolist()) == {0, 255}
    white = mixed[:, 0] == 255
    assert torch.allclose(white.flatten(1).float().mean(1), 1 - kept)
    assert white.any(1).sum(1).equal(white.any(2).sum(1)), "as high as wide"
    assert len({tuple(each.nonzero()[0].tolist()) for each in white if each.any()}) > 20, "at many places"
    assert 0.5 <= kept.min() < 0.6 and kept.max() > 0.95


def test_a_blend_is_the_mean_by_what_is_kept() -> None:
    mixed, kept = mix(BLACK, WHITE, Mixing(share=1.0, pasted=0.0), draws())
    expected = (255 * (1 - kept)).round().to(torch.uint8)[:, None, None, None].expand_as(mixed)
    assert torch.equal(mixed, expected)
    assert 0.5 <= kept.min() < 0.55 and kept.max() > 0.95


def test_the_shares_are_as_asked_for() -> None:
    batches = [mix(BLACK, WHITE, Mixing(share=0.75, pasted=0.5), draws(seed)) for seed in range(40)]
    mixed, kept = (torch.cat(each) for each in zip(*batches, strict=True))
    blends = mixed.flatten(1).float().std(1).eq(0) & (kept < 1)
    assert (kept < 1).float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert blends.float().mean().item() == pytest.approx(0.375, abs=0.03)


@pytest.mark.parametrize("name", ["share", "pasted"])
def test_shares_are_shares(name: str) -> None:
    with pytest.raises(ConfigError, match=f"mixing.{name} is 1.5"):
        Mixing(**{name: 1.5})
