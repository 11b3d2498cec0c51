"""Recipes for pairs: the paper's (sections 2.1 and 2.4, appendix B.1.1), small ones, their debug form, and plans.

The paper's order is pretraining, cooldown, distillation of all but the teacher G, video finetuning. Each run starts
from the weights that `pe train` writes for the one before it, in float32, unless `initial` says otherwise. Data are
shards: the paper's own 5.4 billion pairs are not published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate, pairwise

from perception_encoder.data.pairs import ResolutionStage
from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.registry import BUILTIN, find_model
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.pretraining.config import MaskRegularization, PretrainingConfig, resolve_config, trained_towers
from perception_encoder.training.config import ValidationConfig, debug_loop
from perception_encoder.training.cost import BATCHES, BFLOAT16, FLOAT32, Part, Phase, Trained, device_rows, tower_part
from perception_encoder.training.distributed import ParallelConfig
from perception_encoder.training.optimizer import OptimizerConfig

BATCH = 131_072
WARMUP = 2_000  # steps
SIZES = {
    "t16": ("PE-Core-T16-384", (112, 160, 224, 384)),
    "s16": ("PE-Core-S16-384", (112, 160, 224, 384)),
    "b16": ("PE-Core-B16-224", (112, 160, 224)),
    "l14": ("PE-Core-L14-336", (98, 154, 224, 336)),
    "g14": ("PE-Core-G14-448", (98, 154, 224, 336, 448)),
}
TEACHER = "g14"
STEPS = dict.fromkeys(("t16", "s16", "b16", "l14"), 443_000) | {"g14": 656_000}
SHARES = (10, 8, 4, 2, 1)
"""Shares of the samples per resolution: step 5's in the paper (10, 8, 4 and 2 billion), then half of the last."""
MINUTES = 30.0  # minutes between checkpoints, which are large
COOLDOWN_SAMPLES = 50_000_000
RECOMPUTED = ParallelConfig(checkpointing=True)


def core_n16() -> PretrainingConfig:
    """PE-Core-N16-128 from random weights on your pairs: 985,600 of them, two hours on two cores.

    The crop is milder than the paper's: images of small datasets are already cut to their subject.
    """
    return PretrainingConfig(
        model=BUILTIN,
        stages=(
            ResolutionStage(image_size=64, steps=2500),
            ResolutionStage(image_size=96, steps=1050),
            ResolutionStage(image_size=128, steps=300),
        ),
        optimizer=OptimizerConfig(lr=3e-3, plain_lr=1e-2),
        augmentation=Augmentation(scale=(0.25, 1.0)),
    )


def core(size: str) -> PretrainingConfig:
    """PE-Core-T, -S, -B, -L or -G ("t16", "s16", "b16", "l14", "g14"): 58 billion pairs, 86 for G.

    The paper leaves open how many of them each resolution sees (`SHARES`), all of T and S (here B's steps, and one
    resolution more), and how a step is fitted into memory: here blocks are recomputed, and G's are shared out and see
    64 images at a time (`pe train core_g14 --plan`). It also leaves open what decays: here what does in open_clip.
    """
    model, resolutions = SIZES[size]
    return PretrainingConfig(
        model=model,
        stages=stages_of(dict(zip(resolutions, SHARES[: len(resolutions)], strict=True)), STEPS[size]),
        batch_size=BATCH,
        warmup=WARMUP,
        optimizer=OptimizerConfig(decay_tables=True),
        masking=MaskRegularization(),
        parallel=ParallelConfig(kind="fsdp", checkpointing=True, chunk=64) if size == "g14" else RECOMPUTED,
        half=False,
        image_side=resolutions[-1],
        log_every=10,
        checkpoint_every=1_000,
        checkpoint_minutes=MINUTES,
    )


def cooldown(size: str) -> PretrainingConfig:
    """50 million pairs at the final resolution, from the weights of `core`.

    The paper leaves open its batch and rate: here the pretraining's batch, and a tenth of its rate, which falls to zero
    without a warm-up.
    """
    config = core(size)
    return replace(
        config,
        initial=f"runs/core_{size}/model.safetensors",
        stages=(ResolutionStage(image_size=SIZES[size][1][-1], steps=round(COOLDOWN_SAMPLES / BATCH)),),
        warmup=0,
        optimizer=replace(config.optimizer, lr=2e-4),
        checkpoint_every=100,
    )


def distill_core(size: str) -> PretrainingConfig:
    """PE-Core-G into L, B, S or T ("l14", "b16", "s16", "t16"): 4.4 billion pairs at the final resolution.

    It starts from the student's cooldown. Weight decay is the 0.05 of the paper's table (appendix B.1.1); its text says
    none, which is `--set optimizer.weight_decay=0`: LAMB stays LAMB.
    """
    model = SIZES[size][0]
    return PretrainingConfig(
        model=model,
        initial=f"runs/core_{size}_cooldown/model.safetensors",
        teacher=SIZES[TEACHER][0],
        stages=(ResolutionStage(image_size=find_model(model).vision.image_size, steps=269_000),),
        batch_size=16_384,
        warmup=WARMUP,
        optimizer=OptimizerConfig(lr=1e-6, decay_tables=True),
        augmentation=None,
        half=False,
        checkpoint_every=1_000,
        checkpoint_minutes=MINUTES,
    )


def distill_builtin() -> PretrainingConfig:
    """Any teacher into the built-in model, on your images; the teacher encodes each image and caption once."""
    return PretrainingConfig(
        model=BUILTIN,
        initial=BUILTIN,
        teacher="PE-Core-L14-336",
        stages=(ResolutionStage(image_size=128, steps=1_000),),
        batch_size=128,
        warmup=50,
        optimizer=OptimizerConfig(lr=1e-3, plain_lr=1e-3),
        augmentation=None,
        remember=200_000,
    )


def video_finetune(size: str) -> PretrainingConfig:
    """22 million videos of 8 frames: from the distilled weights, or for G from the cooldown's."""
    config = cooldown(size)
    before = f"core_{size}_cooldown" if size == TEACHER else f"distill_{size}"
    return replace(
        config,
        initial=f"runs/{before}/model.safetensors",
        stages=(ResolutionStage(image_size=SIZES[size][1][-1], steps=5_400),),
        frames=8,
        batch_size=4_096,
        warmup=WARMUP,
        optimizer=replace(config.optimizer, lr=1e-6),
        masking=None,
    )


def video_finetune_builtin() -> PretrainingConfig:
    """The built-in model on about a thousand clips of four frames, ten minutes on one core."""
    return PretrainingConfig(
        model=BUILTIN,
        initial=BUILTIN,
        stages=(ResolutionStage(image_size=96, steps=160),),
        frames=4,
        batch_size=32,
        warmup=16,
        optimizer=OptimizerConfig(name="adamw", lr=3e-4),
        parallel=ParallelConfig(chunk=16),
    )


def finetune() -> PretrainingConfig:
    """Train all weights of `initial` on your pairs: 300 steps at the model's own size; for LoRA, `--set lora=16`."""
    return PretrainingConfig(
        initial=BUILTIN,
        stages=(ResolutionStage(steps=300),),
        batch_size=128,
        warmup=30,
        optimizer=OptimizerConfig(name="adamw", lr=1e-4),
        augmentation=Augmentation(scale=(0.5, 1.0)),
        validation=ValidationConfig(share=0.0),
        checkpoint_every=100,
    )


def debug_pretraining(config: PretrainingConfig) -> PretrainingConfig:
    """Return the same run in four steps of the built-in model, at two small resolutions."""
    return replace(
        debug_loop(config),
        model=BUILTIN,
        patch_size=None,
        initial=None if config.initial is None else BUILTIN,
        teacher=None if config.teacher is None else BUILTIN,
        stages=(ResolutionStage(image_size=32, steps=2), ResolutionStage(image_size=48, steps=2)),
        masking=None if config.masking is None else replace(config.masking, every=4),
        frames=None if config.frames is None else 2,
    )


def stages_of(shares: Mapping[int, int], steps: int) -> tuple[ResolutionStage, ...]:
    """Return the stages by resolution that divide `steps` exactly."""
    ends = [round(steps * end / sum(shares.values())) for end in accumulate(shares.values(), initial=0)]
    parts = zip(shares, pairwise(ends), strict=True)
    return tuple(ResolutionStage(image_size=size, steps=end - start) for size, (start, end) in parts)


def plan_pretraining(config: PretrainingConfig, devices: int = 1) -> tuple[list[Phase], str]:
    """Return a run's phases and assumptions; ConfigError for a teacher without a text tower."""
    config = resolve_config(config)
    (_, vision, text), teacher, teacher_size, phases = trained_towers(config), list[Part](), 0, []
    if config.teacher is not None:
        entry = find_entry(config.teacher)
        if entry.text is None:
            raise ConfigError(f"the teacher is {config.teacher}, which has no text tower; use a Core model")
        towers = (tower_part(entry.vision, train=False), tower_part(entry.text, train=False))
        teacher, teacher_size = [replace(part, beside=BFLOAT16) for part in towers], entry.vision.image_size
    for stage in config.stages:
        batch_size, side = config.batch_size, max(stage.image_size, teacher_size)
        rows, copies = device_rows(batch_size, devices), 5 if devices > 1 else 2
        features = copies * batch_size * (vision.output_dim or 0)  # both towers', their gradients, parts to gather
        logits = 7 * rows * batch_size  # logarithms and targets both ways stay, three are temporary
        positives = BATCHES * 2 * rows * batch_size  # both ways, a byte each
        images = BATCHES * 3.0 * rows * side**2 * (config.frames or 1)
        batch = {"images": images, "losses": float(FLOAT32 * (features + logits) + positives)}
        parts = [*pair_parts(config, vision, text, stage.image_size), *teacher]
        losses = contrastive_flops(batch_size, vision)
        phases.append(Phase(stage.image_size, stage.steps, batch_size, parts, losses, batch))
    return phases, "the teacher encodes every pair, with no embedding cached" if teacher else ""


def pair_parts(
    config: PretrainingConfig, vision: VisionConfig, text: TextConfig, size: int, length: int | None = None
) -> list[Part]:
    """Return both towers in training, for images of `size` and captions of `length`, and the masked copies."""
    adapted: Trained = (config.lora.rank, config.lora.targets) if config.lora else True
    images = tower_part(vision, size, config.locked != "visual" and adapted)
    parts = [replace(images, count=config.frames or 1), tower_part(text, length, config.locked != "text" and adapted)]
    if config.masking:
        parts.append(replace(tower_part(vision, size).masked(), count=1 / config.masking.every))
    return parts


def contrastive_flops(batch_size: int, vision: VisionConfig) -> int:
    """Return the operations of the contrastive loss per pair of a batch, forward and backward."""
    return 12 * batch_size * (vision.output_dim or vision.width)
