"""Parity with the published reference: every golden entry to a relative error below 1e-4 in float32."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from perception_encoder.models.checkpoints.weights import Model, build
from perception_encoder.models.clip import CLIP
from perception_encoder.models.registry import MODELS, find_model
from perception_encoder.preprocess.tokenizer import Tokenizer
from tests.golden_weights import fill, golden_image

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "vision_text.npz")
NAMES = sorted({key.split("/")[0] for key in GOLDEN.files})
TEXTS = [
    "a diagram",
    "a dog",
    "a photo of a cat wearing a top hat",
    "Two people talking in an office, with sounds of workers typing on a keyboard, while rain falls outside the window "
    "and a phone rings again and again and again",
]
TOLERANCE = 1e-4
weights: dict[str, torch.Tensor] = {}
"""Those of the last model: several have one text tower."""


def golden_model(name: str) -> Model:
    global weights
    model = build(find_model(name))
    weights = fill(model, weights)
    return model


def relative_error(ours: torch.Tensor, reference: np.ndarray) -> float:
    ours = ours.numpy()
    assert ours.shape == reference.shape
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


@torch.no_grad()
def parity(name: str) -> dict[str, float]:
    """Relative error of every golden entry of a model."""
    model = golden_model(name)
    visual = model.visual if isinstance(model, CLIP) else model
    patch, size = visual.config.patch_size, visual.config.image_size
    batch = 1 if "-G14-" in name else 2
    found = {}
    keys = [key.removeprefix(f"{name}/") for key in GOLDEN.files if key.startswith(f"{name}/")]
    for grid in dict.fromkeys(key.split("/")[1] for key in keys if key != "text"):
        x = golden_image(8, 1, 3, size, size) if grid == "native" else golden_image(7, batch, 3, 8 * patch, 12 * patch)
        layers = [int(key.split("/layer")[1]) for key in keys if key.startswith(f"tokens/{grid}/layer")]
        features = visual.forward_intermediates(
            x, layers, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True, stop_early=True
        )
        tokens = {f"layer{n}": torch.cat(part[::-1], dim=1) for n, part in zip(layers, features, strict=True)}
        if f"tokens/{grid}/norm" in keys:
            tokens["norm"] = visual.forward_features(x)
        for kind, token in tokens.items():
            n = token.shape[1]
            found[f"tokens/{grid}/{kind}"] = token[:, [0, 1, n // 3, n // 2, n - 1]]
        if f"image/{grid}" in keys:
            found[f"image/{grid}"] = visual.pool(tokens["norm"]) if "norm" in tokens else model.encode_image(x)
    if "text" in keys:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the last text is longer than 32 tokens
            found["text"] = model.encode_text(Tokenizer(model.text.config.context_length)(TEXTS))
    assert found.keys() == set(keys)
    return {f"{name}/{key}": relative_error(match, GOLDEN[f"{name}/{key}"]) for key, match in found.items()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.large] if "-G14-" in name else []) for name in NAMES]
)
def test_golden(name: str) -> None:
    errors = parity(name)
    assert errors
    assert max(errors.values()) < TOLERANCE, errors


def test_every_architecture_has_golden_outputs() -> None:
    tilings = {"PE-Lang-G14-448-Tiling", "PE-Lang-L14-448-Tiling"}
    assert set(NAMES) == {name for name, entry in MODELS.items() if entry.builtin is None} - tilings
