"""Recipes of language alignment: PLM's three stages, the benchmark of frozen encoders, custom questions; and plans."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from perception_encoder.errors import ConfigError
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_models.decoder import FRESH, SMOLLM2, TOKENS, WIDTH, DecoderLoRA
from perception_encoder.language_models.decoder import LAYERS as FRESH_LAYERS
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.registry import BUILTIN
from perception_encoder.training import cost as costs
from perception_encoder.training.config import ValidationConfig, debug_loop
from perception_encoder.training.distributed import ParallelConfig
from perception_encoder.training.optimizer import OptimizerConfig

LAYERS = {"g14": ("PE-Core-G14-448", 46), "l14": ("PE-Core-L14-336", 22)}
"""Encoder and 0-based layer by size: the 47th of 50 for G, the 23rd of 24 for L."""
DECODER = "meta-llama/Llama-3.2-3B-Instruct"
BENCHMARK_DECODERS = {"llama": "meta-llama/Llama-3.1-8B-Instruct", "qwen": "Qwen/Qwen2.5-7B-Instruct"}
"""The benchmark's language models by their short names."""


def adamw(lr: float, weight_decay: float = 0.01) -> OptimizerConfig:
    """AdamW with the weight decay of PLM-1B and 3B, of all parameters as in the released code; PLM-8B has 0.05."""
    return OptimizerConfig(name="adamw", lr=lr, weight_decay=weight_decay, decay_all=True)


def _weights(recipe: str) -> str:
    """Return the file that `pe train RECIPE` writes."""
    return f"runs/{recipe}/language.safetensors"


def warmup(size: str) -> LanguageConfig:
    """PLM's stage 1 ("g14", "l14"): only the projector, on 4.1 million samples (8,000 steps of 512).

    The paper's text has a million image-text pairs, so each is seen four times. A video has one frame: eight, as in the
    released configuration, would take 8,192 tokens of a context of 1,280.
    """
    encoder, layer = LAYERS[size]
    return LanguageConfig(
        encoder=encoder,
        layer=layer,
        image_size=448,
        decoder=DECODER,
        context=1_280,
        pool=1,
        tiles=1,
        frames=1,
        steps=8_000,
        batch_size=512,
        warmup=20,
        floor=0.01,
        optimizer=adamw(1e-4),
        parallel=ParallelConfig(kind="fsdp", checkpointing=True),
        checkpoint_every=1_000,
    )


def alignment(size: str) -> LanguageConfig:
    """PLM's stage 2, PE-Lang with tiles: everything trains, with LayerScale and DropPath on the encoder.

    71.7 million samples (35,000 steps of 2,048). For PLM-1B and 8B give each stage its `decoder`, and 8B
    `optimizer.weight_decay=0.05`.
    """
    return dataclasses.replace(
        warmup(size),
        initial=_weights(f"language_{size}_warmup"),
        context=6_144,
        pool=2,
        tiles=16,
        frames=16,
        layer_scale=0.1,
        drop_path=0.1,
        train_vision=True,
        train_decoder=True,
        steps=35_000,
        batch_size=2_048,
        warmup=120,
        optimizer=adamw(4e-5),
    )


def untiled(size: str) -> LanguageConfig:
    """PE-Lang without tiles, also published: stage 2 with each image as one square of 448 px.

    71.7 million samples, as in stage 2; the paper gives no settings for it.
    """
    return dataclasses.replace(alignment(size), tiles=1)


def third_stage(size: str) -> LanguageConfig:
    """PLM's stage 3: everything trains, with 36 tiles and 32 frames; 21.5 million samples (21,000 steps of 1,024).

    PLM-8B has `optimizer.lr=1e-5`.
    """
    return dataclasses.replace(
        alignment(size),
        initial=_weights(f"language_{size}"),
        context=11_520,
        tiles=36,
        frames=32,
        steps=21_000,
        batch_size=1_024,
    )


def frozen_warmup(size: str, decoder: str) -> LanguageConfig:
    """The warm-up of `frozen`: only the projector, on 1.02 million samples (8,000 steps of 128)."""
    return dataclasses.replace(
        warmup(size),
        decoder=BENCHMARK_DECODERS[decoder],
        batch_size=128,
        warmup=120,
        optimizer=adamw(1e-4, weight_decay=0.05),
    )


def frozen(size: str, decoder: str) -> LanguageConfig:
    """The benchmark of a frozen encoder (appendix B.2) with a `decoder`, "llama" or "qwen": it and the projector train.

    3.2 million samples (12,500 steps of 256); the paper has 2.6 million, so some are seen twice. No pooling, no tiles;
    2,048 tokens of text beside a video's 8 frames of 1,024. For another encoder, give both recipes its `encoder` and
    `layer`, -1 for a PE-Lang.
    """
    return dataclasses.replace(
        frozen_warmup(size, decoder),
        initial=_weights(f"language_{size}_frozen_{decoder}_warmup"),
        context=10_240,
        frames=8,
        train_decoder=True,
        steps=12_500,
        batch_size=256,
        warmup=300,
        optimizer=adamw(1e-5, weight_decay=0.05),
    )


def custom_questions() -> LanguageConfig:
    """Your questions and answers on one GPU: a PE encoder, any language model, LoRA.

    4,000 samples (500 steps of 8). The context has room for 2,048 tokens of text beside a video's 8 frames of 256.
    """
    return LanguageConfig(
        encoder="PE-Core-L14-336",
        layer=22,
        image_size=448,
        decoder="HuggingFaceTB/SmolLM2-1.7B-Instruct",
        context=4_096,
        pool=2,
        tiles=4,
        train_decoder=True,
        lora=DecoderLoRA(),
        steps=500,
        batch_size=8,
        warmup=20,
        optimizer=OptimizerConfig(name="adamw", lr=2e-4),
        parallel=ParallelConfig(checkpointing=True),
        checkpoint_every=100,
    )


def refinement(captioner: LanguageConfig) -> LanguageConfig:
    """Phase 2 of the video data engine: a captioner's projector and adapters; the paper does not state the rates."""
    return dataclasses.replace(
        captioner,
        train_decoder=True,
        lora=captioner.lora or DecoderLoRA(),
        steps=500,
        batch_size=8,
        warmup=20,
        optimizer=OptimizerConfig(name="adamw", lr=1e-4),
        validation=ValidationConfig(every=100, share=0.05, size=64),
        checkpoint_every=100,
    )


def debug_language(config: LanguageConfig) -> LanguageConfig:
    """Return the same run in four steps of the built-in encoder and SmolLM2-135M, without an earlier stage."""
    lora = None if config.lora is None else dataclasses.replace(config.lora, rank=2)
    return dataclasses.replace(
        debug_loop(config),
        encoder=BUILTIN,
        layer=-1,
        image_size=64,
        decoder=SMOLLM2,
        context=512,
        initial=None,
        tiles=min(config.tiles, 2),
        frames=min(config.frames, 2),
        lora=lora,
        steps=4,
        batch_size=2,
    )


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
    FRESH: DecoderShape(WIDTH, 3 * WIDTH, FRESH_LAYERS, WIDTH // 64, WIDTH // 64, 64, TOKENS),
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
    return dataclasses.replace(part, exit=(costs.Product(2 * labels * table, train is True),))


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
        dataclasses.replace(costs.tower_part(vision, train=config.train_vision), count=encoded),
        decoder_part(shape, tokens, tokens, config.train_decoder and adapted),
        costs.Part(parameters=projector, trained=projector),
    )
    batch = {
        "losses": float(rows * tokens * shape.vocabulary * (costs.BFLOAT16 + 2 * costs.FLOAT32)),
        "images": costs.BATCHES * rows * images * 3.0 * costs.FLOAT32 * vision.image_size**2,
    }
    assumed = f"each conversation has one image of {images} tiles and {tokens:,} tokens in all, each with a loss"
    return [costs.Phase(vision.image_size, config.steps, config.batch_size, parts, batch=batch)], assumed
