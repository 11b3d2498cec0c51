"""Towers neither wait for their device nor break a compiled program."""

from __future__ import annotations

import pytest
import torch

from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.initialization import initialize


def tiny() -> CLIP:
    vision = VisionConfig(image_size=32, patch_size=16, width=32, depth=2, heads=2, mlp_width=64, output_dim=24)
    text = TextConfig(context_length=20, width=32, depth=2, heads=2, output_dim=24, vocabulary=100)
    model = CLIP(vision, text, "tiny")
    initialize(model, torch.Generator().manual_seed(0))
    return model.eval().to(torch.bfloat16)


@pytest.mark.parametrize("tower", ["visual", "text"])
def test_a_tower_in_bfloat16_is_one_compiled_program(tower: str) -> None:
    inputs = {"visual": torch.randn(2, 3, 32, 32).to(torch.bfloat16), "text": torch.randint(1, 100, (2, 20))}[tower]
    module = tiny().get_submodule(tower)
    torch.compiler.reset()
    with torch.inference_mode():
        found, expected = torch.compile(module, backend="eager", fullgraph=True)(inputs), module(inputs)
    torch.compiler.reset()
    assert torch.cosine_similarity(found.float(), expected.float()).min() > 0.999


@torch.inference_mode()
def encode(model: CLIP, device: str) -> None:
    model.encode_image(torch.zeros(2, 3, 32, 32, dtype=torch.bfloat16, device=device), normalize=True)
    model.encode_text(torch.ones(2, 20, dtype=torch.long, device=device), normalize=True)


def test_encoding_reads_no_value_back() -> None:
    """A tensor on "meta" has no values, so reading one is an error."""
    model = tiny().to("meta")
    encode(model, "meta")
    with pytest.raises(RuntimeError, match="meta"):
        model.logit_scale.item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
def test_encoding_never_waits_for_the_card() -> None:
    model = tiny().to("cuda")
    encode(model, "cuda")  # makes the table of rotations, and chooses kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        encode(model, "cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
