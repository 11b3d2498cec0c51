"""Other libraries draw from the passed generator, and leave torch's own as it was."""

from __future__ import annotations

import torch

from perception_encoder.models.seeded import drawn_from


def test_what_is_drawn_comes_from_the_generator() -> None:
    own, generator = torch.get_rng_state(), torch.Generator().manual_seed(7)
    with drawn_from(generator):
        first, second = torch.rand(3), torch.rand(3)
    assert torch.equal(torch.get_rng_state(), own)
    expected = torch.Generator().manual_seed(7)
    assert torch.equal(first, torch.rand(3, generator=expected))
    assert torch.equal(second, torch.rand(3, generator=expected))
    assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=expected))  # it went on
