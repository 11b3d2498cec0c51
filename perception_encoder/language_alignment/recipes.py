"""Recipes of language alignment: the paper's stages, the benchmark of frozen encoders, own questions, the built-in."""

from __future__ import annotations

import dataclasses

from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.text.adapters import DecoderLoRA
from perception_encoder.language_alignment.text.decoder import SMOLLM2
from perception_encoder.models.registry import BUILTIN
from perception_encoder.train.config import debug_loop
from perception_encoder.train.distributed import ParallelConfig
from perception_encoder.train.optimizer import OptimizerConfig
from perception_encoder.train.validation import ValidationConfig

LAYERS = {"g14": ("PE-Core-G14-448", 46), "l14": ("PE-Core-L14-336", 22)}
"""The encoder of each size and the layer that is read, 0-based: 47 of 50 for G, 23 of 24 for L."""
DECODER = "meta-llama/Llama-3.2-3B-Instruct"
WARMUP = "runs/language_{size}_warmup/language.safetensors"


def warmup(size: str) -> LanguageConfig:
    """The warm-up of PE-Lang ("g14", "l14"): the projector alone, a million image-text pairs."""
    encoder, layer = LAYERS[size]
    return LanguageConfig(
        encoder=encoder,
        layer=layer,
        image_size=448,
        decoder=DECODER,
        context=1280,
        pool=1,
        tiles=1,
        steps=8_000,
        batch_size=512,
        warmup=20,
        optimizer=OptimizerConfig(name="adamw", lr=1e-4),
        parallel=ParallelConfig(kind="fsdp", checkpointing=True),
        checkpoint_every=1_000,
    )


def alignment(size: str) -> LanguageConfig:
    """The alignment of PE-Lang: everything trains, with LayerScale and DropPath on the encoder; 70 million samples."""
    return dataclasses.replace(
        warmup(size),
        initial=WARMUP.format(size=size),
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
        optimizer=OptimizerConfig(name="adamw", lr=4e-5),
    )


def frozen(size: str) -> LanguageConfig:
    """The benchmark of a frozen encoder (appendix B.2): projector and language model, 2.6 million samples, no pooling.

    It begins with the projector of `language_SIZE_warmup --set batch_size=128 --set warmup=120`.
    """
    return dataclasses.replace(
        warmup(size),
        initial=WARMUP.format(size=size),
        context=2_048,
        train_decoder=True,
        steps=12_500,
        batch_size=256,
        warmup=300,
        optimizer=OptimizerConfig(name="adamw", lr=1e-5),
    )


def own_questions() -> LanguageConfig:
    """One's own questions and answers on one GPU: a PE encoder, any language model, LoRA."""
    return LanguageConfig(
        encoder="PE-Core-L14-336",
        layer=22,
        image_size=448,
        decoder="HuggingFaceTB/SmolLM2-1.7B-Instruct",
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


def builtin_alignment() -> LanguageConfig:
    """The built-in language model: projector and adapters of SmolLM2-135M, on the features of the aligned encoder.

    It begins with what `python -m experiments.language.words` wrote. Questions are set apart, so that one pass over an
    image's tokens serves them all, as many as a row of 400 tokens has room for.
    """
    return LanguageConfig(
        encoder=BUILTIN,
        decoder=SMOLLM2,
        training_context=400,
        image_size=224,
        pool=1,
        initial="runs/language_builtin_words/language.safetensors",
        train_decoder=True,
        lora=DecoderLoRA(rank=8, alpha=16),
        apart=True,
        steps=1_000,
        batch_size=6,
        warmup=30,
        optimizer=OptimizerConfig(name="adamw", lr=1e-3),
        validation=ValidationConfig(every=500, share=0.01, size=120),
        checkpoint_every=100,
    )


def debug_language(config: LanguageConfig) -> LanguageConfig:
    """Return the same run in four steps of the built-in encoder and SmolLM2-135M, without an earlier stage."""
    lora = None if config.lora is None else dataclasses.replace(config.lora, rank=2)
    small = dataclasses.replace(
        debug_loop(config),
        encoder=BUILTIN,
        layer=-1,
        image_size=64,
        decoder=SMOLLM2,
        context=512,
        initial=None,
        tiles=min(config.tiles, 2),
        frames=2,
        lora=lora,
        steps=4,
    )
    return dataclasses.replace(small, batch_size=2)
