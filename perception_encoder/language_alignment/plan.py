"""Plan a language alignment."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from perception_encoder.errors import ConfigError
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_models.decoder import FRESH, LAYERS, SMOLLM2, TOKENS, WIDTH
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.training import cost as costs


class DecoderShape(NamedTuple):
    """Sizes of a Llama-like decoder."""

    width: int
    hidden: int
    depth: int
    heads: int
    key_heads: int
    head_width: int
    vocabulary: int
    tables: int = 1  # of tokens: with 2, the output has its own


SHAPES = {
    SMOLLM2: DecoderShape(576, 1536, 30, 9, 3, 64, 49152),
    "HuggingFaceTB/SmolLM2-360M-Instruct": DecoderShape(960, 2560, 32, 15, 5, 64, 49152),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": DecoderShape(2048, 8192, 24, 32, 32, 64, 49152),
    "meta-llama/Llama-3.2-1B-Instruct": DecoderShape(2048, 8192, 16, 32, 8, 64, 128256),
    "meta-llama/Llama-3.2-3B-Instruct": DecoderShape(3072, 8192, 28, 24, 8, 128, 128256),
    "meta-llama/Llama-3.1-8B-Instruct": DecoderShape(4096, 14336, 32, 32, 8, 128, 128256, 2),
    "Qwen/Qwen2.5-7B-Instruct": DecoderShape(3584, 18944, 28, 28, 4, 128, 152064, 2),
    FRESH: DecoderShape(WIDTH, 3 * WIDTH, LAYERS, WIDTH // 64, WIDTH // 64, 64, TOKENS),
}
"""Sizes of the recipes' language models, so that a plan downloads nothing."""


def decoder_part(shape: DecoderShape, tokens: int, labels: float, train: costs.Trained = True) -> costs.Part:
    """Return the cost of a conversation; `labels`: number of tokens with a label, and thus logits."""
    width, hidden, table = shape.width, shape.hidden, shape.vocabulary * shape.width
    queries, keys = shape.heads * shape.head_width, shape.key_heads * shape.head_width
    part = costs.transformer(
        ((width, queries), (width, keys), (width, keys), (queries, width)),
        ((width, hidden), (width, hidden), (hidden, width)),
        outside=shape.tables * table + width,
        depth=shape.depth,
        tokens=tokens,
        heads=shape.heads,
        train=train,
        rope=True,
        inner=True,
    )
    return replace(part, exit=(costs.Product(2 * labels * table, train is True),))


def plan_language(config: LanguageConfig, devices: int = 1) -> tuple[list[costs.Phase], str]:
    """Return the run's one phase and its assumptions; ConfigError for a language model of unknown sizes.

    The text fills what the largest image or video leaves; without a limit there is as much text as image.
    """
    if config.decoder not in SHAPES:
        raise ConfigError(f"{config.decoder} cannot be planned; set decoder to one of {', '.join(SHAPES)}")
    vision = costs.cut_tower(find_entry(config.encoder).vision, config.layer, config.image_size, config.layer_scale)
    rows, shape = costs.device_rows(config.batch_size, devices), SHAPES[config.decoder]
    images, per_image = 1 + config.tiles if config.tiles > 1 else 1, max(1, vision.grid // (config.pool or 2)) ** 2
    tokens, context = images * per_image, config.training_context or config.context
    tokens += tokens if context is None else max(1, context - per_image * max(images, config.frames))
    projector = (vision.width + 1) * shape.width + (0 if config.linear else (shape.width + 1) * shape.width)
    adapted: costs.Trained = (config.lora.rank, config.lora.targets) if config.lora else True
    encoded = images if config.train_vision or not config.cached else 0
    parts = (
        replace(costs.tower_part(vision, train=config.train_vision), count=encoded),
        decoder_part(shape, tokens, tokens, config.train_decoder and adapted),
        costs.Part(parameters=projector, trained=projector),
    )
    batch = {
        "losses": float(rows * tokens * shape.vocabulary * (costs.BFLOAT16 + 2 * costs.FLOAT32)),
        "images": costs.BATCHES * rows * images * 3.0 * costs.FLOAT32 * vision.image_size**2,
    }
    assumed = f"each conversation has one image of {images} tiles and {tokens:,} tokens in all, each with a loss"
    return [costs.Phase(vision.image_size, config.steps, config.batch_size, parts, batch=batch)], assumed
