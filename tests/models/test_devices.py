"""Towers neither wait for their device nor break a compiled program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from perception_encoder.language_models.reading import TorchReader, generate_tokens
from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.initialization import initialize
from perception_encoder.preprocess.conversation import Sampling
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.training import loop
from perception_encoder.training.optimizer import OptimizerConfig, build_optimizer
from tests.pretraining.toys import small_batch, small_towers
from tests.tiny_language_models import NO_END, tiny_llama

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TEXTS = torch.randint(1, 100, (2, 20), generator=torch.Generator().manual_seed(0))


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


@torch.inference_mode()
def test_attention_is_a_fused_kernel() -> None:
    """Even with a mask of padding: torch refuses to compute attention in any other way here."""
    model, mask = tiny().float(), torch.ones(2, 2, 2, dtype=torch.bool)
    mask[1, :, 1] = False
    expected = model.encode_image(IMAGES), model.encode_image(IMAGES, padding_mask=mask), model.encode_text(TEXTS)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        found = model.encode_image(IMAGES), model.encode_image(IMAGES, padding_mask=mask), model.encode_text(TEXTS)
        with pytest.raises(RuntimeError, match="kernel"):
            F.scaled_dot_product_attention(*torch.zeros(3, 1, 2, 4, 16, dtype=torch.float16).transpose(-1, -2))
    assert all(map(torch.equal, found, expected))


@contextmanager
def never_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
def test_encoding_and_training_never_wait_for_the_card_and_attention_is_fused() -> None:
    model, task, batch = tiny().to("cuda"), ContrastiveTask(small_towers()), small_batch()
    task.model.to("cuda")
    optimizer = build_optimizer(task.model, OptimizerConfig(name="adamw"))

    def step() -> None:
        losses = loop._backward(task, batch.to(torch.device("cuda")), 0)
        loop.update(task.model, optimizer, [1e-3] * len(optimizer.param_groups), 1.0)
        assert losses.values.waits

    for checked in (nullcontext(), never_waiting()):  # the first makes tables and chooses kernels
        with checked:
            step()
            with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
                encode(model, "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
def test_generation_never_waits_for_the_card_but_for_its_tokens() -> None:
    model = tiny_llama().to("cuda")
    prompts = [torch.zeros(5, 32, device="cuda")] * 2
    rows = generate_tokens(TorchReader(model), prompts, NO_END, Sampling(max_tokens=8))
    expected = [next(rows)]
    with never_waiting():
        expected += rows
    assert len(expected) == 8
