"""A convolutional teacher: a network of timm in the vision tower's place.

From a few thousand pictures a convolutional network learns more than a vision transformer, which has to find out by
itself that pictures are local and may be shifted; a student can then learn it from the teacher (DeiT, arXiv
2012.12877). The network has no part in the model that comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from perception_encoder.errors import CheckpointError, ConfigError, MissingExtraError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoint import read_checkpoint, write_tensors
from perception_encoder.models.precision import fast_autocast
from perception_encoder.models.seeded import drawn_from
from perception_encoder.models.weights import state_hash
from perception_encoder.preprocess.image import ImageTransform, to_float

BACKBONE = "backbone.safetensors"
"""Name of a backbone's file."""


class Backbone(nn.Module):
    """Uint8 pictures (B, 3, H, W) to embeddings (B, `output_dim`)."""

    def __init__(self, name: str, output_dim: int, generator: torch.Generator) -> None:
        """`name`: timm's, `resnet18d` say. Weights are drawn from the generator. Raises ConfigError."""
        super().__init__()
        try:
            import timm
        except ImportError:
            raise MissingExtraError("timm", "train") from None
        if not timm.is_model(name):
            raise ConfigError(f"timm has no network {name!r}; timm.list_models() shows those that it has")
        self.name = name
        with drawn_from(generator):
            network: Any = timm.create_model(name, num_classes=output_dim)
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, pictures: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Embeddings, not of unit length."""
        embeddings: Tensor = self.network(to_float(pictures).contiguous(memory_format=torch.channels_last))
        return embeddings

    def write(self, path: Path, image_size: int) -> None:
        """Write the weights; `image_size`: side of the pictures that it looks at best."""
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        write_tensors(state, path, {"backbone": self.name, "image_size": str(image_size)})


class BackboneEncoder:
    """A backbone and the text tower that it was trained with, as an `ImageTextEncoder`."""

    def __init__(self, backbone: Backbone, image_size: int, texts: Encoder) -> None:
        self.name, self.image_size, self.texts = backbone.name, image_size, texts
        self.backbone, self.transform = backbone.eval().to(texts.device), ImageTransform(image_size)

    @property
    def weight_hash(self) -> str:
        """Identifies the weights of both."""
        return state_hash(self.backbone.state_dict()) + self.texts.weight_hash

    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Unit vectors (B, D), float32, in the pictures' order."""
        pixels = torch.stack([self.transform.pixels(image) for image in images]).to(self.texts.device)
        with torch.inference_mode(), fast_autocast(self.texts.device):
            embeddings = self.backbone(pixels)
        vectors: np.ndarray = F.normalize(embeddings.float(), dim=-1).cpu().numpy()
        return vectors

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (B, D), float32, in the texts' order."""
        return self.texts.encode_texts(texts)


def load_backbone(path: Path, texts: Encoder) -> BackboneEncoder:
    """What `Backbone.write` wrote, with a text tower; CheckpointError where it is something else."""
    state, metadata = read_checkpoint(path)
    if not {"backbone", "image_size"} <= metadata.keys():
        raise CheckpointError(f"{path} holds no backbone of a teacher")
    backbone = Backbone(metadata["backbone"], texts.dimension, torch.Generator().manual_seed(0))
    try:
        backbone.network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit timm's {backbone.name} ({error})") from None
    return BackboneEncoder(backbone, int(metadata["image_size"]), texts)
