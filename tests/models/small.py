"""Small models with random weights, every parameter away from its neutral value."""

from __future__ import annotations

import torch
from torch import nn

from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.vision_transformer import VisionTransformer

SIZE, PATCH, DEPTH = 32, 8, 3

CORE = VisionConfig(image_size=SIZE, patch_size=PATCH, width=32, depth=DEPTH, heads=4, mlp_width=64, output_dim=16)
WITHOUT_CLASS_TOKEN = VisionConfig(**{**vars(CORE), "class_token": False})
WITHOUT_ROPE = VisionConfig(**{**vars(CORE), "rope": False})
TOKENS = VisionConfig(
    **{**vars(CORE), "attention_pool": False, "final_norm": False, "layer_scale": 0.1, "output_dim": None}
)
TEXT = TextConfig(context_length=8, width=32, depth=2, heads=4, output_dim=16, vocabulary=50)

KINDS = {"core": CORE, "no class token": WITHOUT_CLASS_TOKEN, "no rope": WITHOUT_ROPE, "tokens": TOKENS}


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Draw every parameter anew."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        shift = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0  # a LayerNorm's factor
        with torch.no_grad():
            parameter.normal_(shift, 0.2, generator=generator)


def small_tower(config: VisionConfig = CORE) -> VisionTransformer:
    """A vision tower in evaluation mode."""
    tower = VisionTransformer(config, "small").eval()
    randomize(tower)
    return tower


def small_clip() -> CLIP:
    """Two towers in evaluation mode."""
    model = CLIP(CORE, TEXT, "small").eval()
    randomize(model)
    return model


def random_images(*shape: int, seed: int = 1) -> torch.Tensor:
    """Noise of any shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
