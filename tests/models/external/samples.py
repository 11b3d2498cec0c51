"""Images of noise, pixels as a library scales them, and a saved model of transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.preprocess.image import ImageTransform

SIZE = (32, 48)


def noise_images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)) for _ in range(3)]


def scaled(images: list[Image.Image], size: tuple[int, int], mean: object, deviation: object) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack([ImageTransform(size).pixels(image) for image in images])).float() / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]


def save_transformer(kind: str, directory: Path) -> object:
    """Save a tiny model with random weights and its image processor, as the hub has them."""
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(**shape, image_size=32, patch_size=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}Model")(config).eval()
    model.save_pretrained(directory)
    text = '{"image_processor_type": "ViTImageProcessor", "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}'
    (directory / "preprocessor_config.json").write_text(text)
    return model
