"""Settings of a run on pairs: pretraining, finetuning and distillation (sections 2.1 and 2.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from perception_encoder.data.pairs import ResolutionStage
from perception_encoder.data.streams import StreamConfig
from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.registry import find_model
from perception_encoder.preprocess.augmentation import Augmentation, Mixing
from perception_encoder.records import (
    Checked,
    Count,
    CountOrZero,
    Positive,
    Share,
    ShareAboveZero,
    ShareBelowOne,
    Weight,
)
from perception_encoder.training.config import TrainingConfig

PROCEDURE = 2
"""Version of what a run does with its configuration. Increase it with a change after which the same configuration, data
and seed train other weights (1: crops larger than the image were clipped, positions were drawn at the last resolution):
then a run that an earlier version began is not resumed. Published results refer to runs by their configuration alone.
"""
MAX_LOGIT_SCALE = 100.0  # appendix B.1.1
TEACHER_LOGIT_SCALE = 2 * MAX_LOGIT_SCALE  # the teacher's temperature is half the student's (appendix C.3)


@dataclass(frozen=True, kw_only=True)
class MaskRegularization(Checked):
    """A copy of some of a batch's images is masked, and its tokens are pulled to those of the whole image."""

    every: Count = 16
    """One in this many images has a masked copy (8,192 of 131,072 in the paper)."""
    ratio: ShareAboveZero = 0.4
    """Share of hidden patches."""
    weight: Weight = 1.0
    """Weight of its loss beside the contrastive one (not stated in the paper)."""

    def draw(self, images: int, patches: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return evenly spread rows of a batch to copy (M,), and their hidden patches (M, P), equally many in each."""
        rows = torch.arange(0, images, self.every)
        hidden = max(1, round(self.ratio * patches))
        order = torch.rand(len(rows), patches, generator=generator).argsort(dim=1)
        return rows, order < hidden


@dataclass(frozen=True, kw_only=True)
class LoRA(Checked):
    """Low-rank adapters (LoRA) on the linear layers of transformer blocks: W becomes W + (alpha / rank) B A."""

    rank: Count = 8
    """Rank of the adapters."""
    alpha: Count = 16
    """The adapters' output is scaled by alpha / rank."""
    targets: Literal["attention", "mlp", "all"] = "all"
    """Matrices of each block to adapt: "attention" (its input and output projections), "mlp" or "all"."""


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig(TrainingConfig):
    """Everything that decides the result of a run on image-text or video-text pairs, except the data.

    Pretraining, its cooldown, finetuning on images or videos and distillation are such runs.
    """

    example: ClassVar[str] = 'pe classify IMAGE --labels "cat,dog" -m {weights}'
    chunks: ClassVar[bool] = True

    model: str | None = None
    """Name of a two-tower model of the registry; by default that of `initial`."""
    initial: str | None = None
    """Name, path or run of the weights to start from; random weights by default."""
    stages: tuple[ResolutionStage, ...]
    """Resolutions, in order."""
    initial_share: ShareBelowOne = 0.0
    """Average the final weights with the initial ones, using this share for the initial ones."""
    locked: Literal["visual", "text"] | None = None
    """A tower that keeps its weights: "visual" or "text". A locked text tower encodes each caption once if all captions
    are known, at most 131,072, and no more than the pairs of the run."""
    lora: LoRA | None = None
    """Train adapters only, and merge them into the weights at the end."""
    teacher: str | None = None
    """Name, alias or path of a two-tower model to distil (section 2.4)."""
    teacher_logit_scale: Positive = TEACHER_LOGIT_SCALE
    """The paper uses twice the student's maximum. For a teacher with a scale below 100, use twice that scale."""
    contrastive_weight: Weight = 0.0
    """Weight of the contrastive loss beside a distillation (the paper has none)."""
    remember: CountOrZero = 0
    """Number of images and captions whose teacher embeddings are cached in memory (4 KiB each for PE-Core-L). The
    teacher then encodes an image that is not augmented once in a run, whatever the number of steps."""
    weights: Mapping[str, Weight] = field(default_factory=dict)
    """Share of each source in a batch; sources that the data lack are ignored. By default, and for class directories
    and tables of yours that have no weight here, a source counts by its number of samples."""
    balance: Share = 0.5
    """How much to repeat rare labels of a source: 0 not at all, 1 until all labels are equally frequent."""
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    """Step 8 of section 2.1; without it, images are only resized to a square."""
    masking: MaskRegularization | None = None
    """Step 9."""
    mixing: Mixing | None = None
    """Mix images with each other, for runs that repeat few images often (not in the paper)."""
    rope: bool = True
    """Step 6."""
    attention_pool: bool = True
    """Step 7; without it the class token is the image's embedding."""
    patch_size: Count | None = None
    """Side of a patch in pixels, by default the model's."""
    text_tower: str | None = None
    """Name of the model whose text tower is trained, by default its own."""
    frames: Count | None = None
    """Number of frames per video, for a run on videos (section 2.4)."""
    image_side: Count | None = None
    """Images are held in memory with their short side at most this, in pixels: by default 160, or 1.25 times the
    training image."""
    streams: StreamConfig = field(default_factory=StreamConfig)
    """How to read shards, if the data are shards; the shards' own weights then apply."""
    half: bool = True
    """Write the weights for use, in float16 and the token table in int8; otherwise in float32, without loss, for a run
    that starts from them."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return sum(stage.steps for stage in self.stages)

    @property
    def samples(self) -> int:
        """Pairs of the whole run."""
        return self.steps * self.batch_size

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stages:
            raise ConfigError("stages is empty; a run needs at least one resolution")
        if self.model is None and self.initial is None:
            raise ConfigError("model and initial are null; set one of them")
        if self.initial_share and self.initial is None:
            raise ConfigError("initial_share: a run from random weights has nothing to average with; set initial")
        if self.frames is not None and self.masking is not None:
            raise ConfigError("frames and masking: videos have no masked copies; set masking=null")
        if self.frames is not None and self.mixing is not None:
            raise ConfigError("frames and mixing: images are mixed, not videos; set mixing=null")
        if self.lora is not None and (self.initial is None or self.masking or self.parallel.kind == "fsdp"):
            raise ConfigError("lora adapts the weights of `initial`, without masking and without fsdp")
        if self.teacher is not None and (self.masking is not None or self.frames is not None):
            raise ConfigError("distillation uses whole images; set masking and frames to null")


def resolve_config(config: PretrainingConfig, least_side: int = 0) -> PretrainingConfig:
    """Return a run with the model, image size and image side filled in from `initial`.

    `least_side`: the least image side, that of a teacher's images.
    Raises ConfigError if `initial` has no text tower, and what `find_entry` does.
    """
    model, stages = config.model, config.stages
    if model is None or not all(stage.image_size for stage in stages):
        entry = find_entry(model or config.initial or "")
        if entry.text is None:
            raise ConfigError(f"initial is {config.initial}, which has no text tower; training on pairs needs both")
        side = entry.vision.image_size
        model, stages = entry.name, tuple(replace(stage, image_size=stage.image_size or side) for stage in stages)
    largest = max(stage.image_size for stage in stages)
    side = max(least_side, config.image_side or max(160, largest + largest // 4))
    return replace(config, model=model, stages=stages, image_side=side)


def trained_towers(config: PretrainingConfig) -> tuple[str, VisionConfig, TextConfig]:
    """Return the name and the towers of the model that a resolved run trains; ConfigError without a text tower."""
    assert config.model is not None
    entry = find_model(config.model)
    text, output = find_model(config.text_tower).text if config.text_tower else entry.text, entry.vision.output_dim
    if text is None or output is None:
        raise ConfigError(f"{config.text_tower or config.model} has no text tower; training on pairs needs both")
    vision = replace(
        entry.vision,
        patch_size=config.patch_size or entry.vision.patch_size,
        rope=config.rope,
        attention_pool=config.attention_pool and entry.vision.attention_pool,
    )
    return entry.name, vision, replace(text, output_dim=output)
