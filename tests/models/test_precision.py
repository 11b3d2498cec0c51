"""Which type is computed in, and how far its rounding may go."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load
from perception_encoder.models.precision import TOLERANCE, fast_autocast, fast_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_variable_forces_a_type_for_encoders_and_for_training(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PE_DTYPE", str(dtype).removeprefix("torch."))
    assert fast_dtype(CPU) == dtype and load("builtin").dtype == dtype
    with fast_autocast(CPU):
        assert torch.nn.functional.linear(torch.ones(2, 4), torch.ones(3, 4)).dtype == dtype


def test_without_it_the_type_is_measured_and_another_word_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PE_DTYPE", raising=False)
    assert str(fast_dtype(CPU)).removeprefix("torch.") in TOLERANCE
    monkeypatch.setenv("PE_DTYPE", "float16")
    with pytest.raises(ConfigError, match=r"float16.*float32, bfloat16"):
        fast_dtype(CPU)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_an_embedding_hardly_depends_on_its_batch(dtype: str) -> None:
    encoder: Encoder = load("builtin", dtype=getattr(torch, dtype))
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (24, 6, 6, 3), dtype=np.uint8).repeat(20, 1).repeat(20, 2)
    images = [*smooth]
    whole = encoder.encode_images(images, batch_size=24)
    for size in (1, 2, 3, 7):
        np.testing.assert_allclose(encoder.encode_images(images, batch_size=size), whole, rtol=0, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(
        encoder.encode_texts("a dog"),
        encoder.encode_texts(["a dog", "a red mug"] * 40)[0],
        rtol=0,
        atol=TOLERANCE[dtype],
    )
