"""Random models: every parameter is drawn, from the passed generator alone, in other libraries too."""

from __future__ import annotations

import pytest
import torch

from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.initialization import drawn_from, initialize
from tests.models.small import KINDS, TEXT


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_no_parameter_is_left_uninitialised(config: VisionConfig) -> None:
    model = CLIP(config, TEXT)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    initialize(model, generator(0))
    assert [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()] == []
    neutral = [name for name, p in model.named_parameters() if p.unique().numel() == 1]
    assert all(name.endswith(("bias", "gamma", "logit_scale")) or "ln_" in name or "norm" in name for name in neutral)


def test_a_random_model_depends_on_its_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first = create_model("builtin").state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.randn(5)
    again = create_model("builtin", generator=generator(0)).state_dict()
    other = create_model("builtin", generator=generator(1)).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    same = {name for name, tensor in first.items() if torch.equal(tensor, other[name])}
    assert {name for name in first if name.endswith("proj") or "embedding" in name or "probe" in name}.isdisjoint(same)
    assert not {name for name in first if name.endswith(("in_proj_weight", "c_fc.weight", "conv1.weight"))} & same


def test_what_is_drawn_comes_from_the_generator() -> None:
    state, generator = torch.get_rng_state(), torch.Generator().manual_seed(7)
    with drawn_from(generator):
        first, second = torch.rand(3), torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state)
    expected = torch.Generator().manual_seed(7)
    assert torch.equal(first, torch.rand(3, generator=expected))
    assert torch.equal(second, torch.rand(3, generator=expected))
    assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=expected))  # it went on
