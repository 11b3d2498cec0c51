"""The steps that are timed: ours, as the training loop does them, and those of open_clip's models and loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from perception_encoder.data.pairs import ImageTextBatch
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.clip import CLIP
from perception_encoder.models.precision import fast_autocast
from perception_encoder.models.registry import find_model
from perception_encoder.preprocess.image import to_float
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import CachedTexts, CaptionVocabulary, TrainingTowers
from perception_encoder.training.distributed import clip_gradients
from perception_encoder.training.optimizer import OptimizerConfig, build_optimizer
from perception_encoder.transfer import to_device

CPU = torch.device("cpu")
UPDATE = "update"
"""What the profiler calls the part of our step after the gradients."""

Step = Callable[[ImageTextBatch], None]


def our_model(name: str, vocabulary: CaptionVocabulary | None) -> CLIP:
    """A model with random weights, and the rows of its token table that are trained."""
    model = create_model(name).train()
    if vocabulary is not None:
        vocabulary.narrow(model)
    return model


def our_step(
    model: CLIP, optimizer_config: OptimizerConfig, cached: CachedTexts | None = None, device: torch.device = CPU
) -> Step:
    """A step as the training loop does it; with `cached`, embeddings of its captions, the text tower is locked."""
    model.text.requires_grad_(cached is None)
    task, optimizer = ContrastiveTask(TrainingTowers(model, cached=cached)), build_optimizer(model, optimizer_config)

    def step(batch: ImageTextBatch) -> None:
        with fast_autocast(device):
            loss = task.losses(batch)["contrastive"]
        loss.backward()
        with record_function(UPDATE):
            clip_gradients(model.parameters(), optimizer_config.max_grad_norm)
            optimizer.step()
            task.after_step()
            optimizer.zero_grad(set_to_none=True)

    return step


def all_captions(batches: Iterable[ImageTextBatch], length: int) -> Tensor:
    """Token ids (U, length) of the captions of some batches, each once."""
    return torch.cat([F.pad(batch.tokens, (0, length - batch.tokens.shape[1])) for batch in batches]).unique(dim=0)


def open_clip_step(
    model: nn.Module, vocabulary: CaptionVocabulary | None, length: int, device: torch.device = CPU
) -> Step:
    """A step of one of open_clip's models with its loss and AdamW; captions are padded to `length`, as it pads them."""
    import open_clip

    loss_of = open_clip.ClipLoss()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=device.type == "cuda")

    def step(batch: ImageTextBatch) -> None:
        ids = to_device(batch.tokens if vocabulary is None else vocabulary.ids[batch.tokens], device)
        rows = torch.arange(len(batch.images), device=device) % len(ids)  # it encodes a caption for each image
        tokens = F.pad(ids, (0, length - ids.shape[1]))[rows]
        with fast_autocast(device):
            images, texts, scale = model(to_float(batch.images), tokens)
            loss = loss_of(images, texts, scale)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def open_clip_model(name: str, image_size: int) -> Any:
    """open_clip's CLIP with its own towers, of the sizes of one of our models."""
    import open_clip

    vision, text = find_model(name).vision, find_model(name).text
    assert text is not None
    return open_clip.CLIP(
        embed_dim=vision.output_dim,
        vision_cfg={
            "layers": vision.depth,
            "width": vision.width,
            "head_width": vision.width // vision.heads,
            "patch_size": vision.patch_size,
            "image_size": image_size,
            "attentional_pool": False,
        },
        text_cfg={
            "context_length": text.context_length,
            "vocab_size": text.vocabulary,
            "width": text.width,
            "heads": text.heads,
            "layers": text.depth,
        },
    ).train()
