"""A model under both transforms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from perception_encoder.evaluation.transforms import load_transforms
from perception_encoder.models.weights import create_model, write_checkpoint


def test_crop_sees_the_middle_and_squash_all(tmp_path: Path) -> None:
    weights = tmp_path / "nano.safetensors"
    write_checkpoint(create_model("builtin"), weights)
    encoders, about = load_transforms(str(weights))
    wide = torch.rand(60, 180, 3, generator=torch.Generator().manual_seed(0)).mul(255).byte().numpy()
    squash, crop = (encoders[name].encode_images([wide]) for name in ("squash", "crop"))
    assert not np.allclose(squash, crop, atol=1e-3)
    np.testing.assert_allclose(crop, encoders["squash"].encode_images([wide[:, 60:120]]), atol=0.02)
    assert about["device"] in ("cpu", "cuda") and len(about["weights"]) == 16
