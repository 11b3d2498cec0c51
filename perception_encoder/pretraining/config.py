"""Configure a pretraining run: all that decides its result, but the data itself (section 2.1)."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from perception_encoder.data.pairs import Stage
from perception_encoder.data.streams import StreamConfig
from perception_encoder.errors import ConfigError
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.registry import find_model
from perception_encoder.preprocess.augmentation import Augmentation, Mixing
from perception_encoder.pretraining.lora import LoRA
from perception_encoder.pretraining.masking import MaskRegularization
from perception_encoder.training.config import TrainingConfig, check_least

PROCEDURE = 2
"""Version of what a run does with its configuration. Raise it with a change after which the same configuration, data
and seed train other weights (1: crops larger than the image were clipped, positions were drawn at the last resolution):
then a run that an earlier version began is not resumed. Published results refer to runs by their configuration alone.
"""


@dataclass(frozen=True, kw_only=True)
class PairConfig(TrainingConfig):
    """What the stages that train two towers on image-text pairs share."""

    initial: str | None = None
    """Name or path of the weights to begin with, as the cooldown and finetuning do; random ones by default."""
    initial_share: float = 0.0
    """Share of the weights to begin with in those that come out, which are a mean of both ends."""
    locked: str | None = None
    """A tower that keeps its weights: "visual" or "text". A locked text tower encodes each caption once if all are
    known, at most 131,072, and no more than the pairs of the run."""
    lora: LoRA | None = None
    """Only adapters are trained, and merged into the weights at the end."""
    balance: float = 0.5
    """How far rare labels of a source are repeated: 0 not at all, 1 until all labels are equally frequent."""
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    """Step 8 of section 2.1; without it images are only squashed to a square."""
    streams: StreamConfig = field(default_factory=StreamConfig)
    """How shards are read, if the data are shards; then the shards' own weights count."""
    half: bool = True
    """Write the weights for use, in float16 and the token table in int8; else in float32, for a run that goes on from
    them, without loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.locked not in (None, "visual", "text"):
            raise ConfigError(f"locked is {self.locked!r}; it must be 'visual' or 'text'")
        if not 0 <= self.initial_share < 1:
            raise ConfigError(f"initial_share is {self.initial_share}; it must be at least 0 and below 1")
        if self.initial_share and self.initial is None:
            raise ConfigError("initial_share: a run from random weights has none to average with; set initial")

    @abstractmethod
    def pretraining(self) -> PretrainingConfig:
        """Return the run as a pretraining, with its model and its resolutions."""


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig(PairConfig):
    """All that decides a run's result, but the data itself."""

    model: str
    """Name of a two-tower model of the registry."""
    stages: tuple[Stage, ...]
    """Resolutions, in order."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Share of each source in a batch; sources that the data lacks are left out. None given: every source counts by the
    number of its samples, as class directories and tables of one's own do in any case."""
    masking: MaskRegularization | None = None
    """Step 9."""
    mixing: Mixing | None = None
    """Images are mixed with each other, for runs that see each of few images often (not the paper's)."""
    rope: bool = True
    """Step 6."""
    attention_pool: bool = True
    """Step 7; without it the class token is the image's embedding."""
    patch_size: int | None = None
    """Side of a patch in pixels, by default the model's."""
    layers: int | None = None
    """Depth of the vision tower, by default the model's."""
    text_tower: str | None = None
    """Name of the model whose text tower is trained, by default its own."""
    frames: int | None = None
    """Frames of a video, if the run is on videos (section 2.4)."""
    image_side: int = 160
    """Images are held in memory with their short side at most this, in pixels."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return sum(stage.steps for stage in self.stages)

    @property
    def samples(self) -> int:
        """Pairs of the whole run."""
        return sum(stage.steps * (stage.batch_size or self.batch_size) for stage in self.stages)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames is not None and self.masking is not None:
            raise ConfigError("frames and masking: videos have no masked copies; set masking=null")
        if self.frames is not None and self.mixing is not None:
            raise ConfigError("frames and mixing: images are mixed, not videos; set mixing=null")
        if self.lora is not None and (self.initial is None or self.masking or self.parallel.kind == "fsdp"):
            raise ConfigError("lora adapts the weights of `initial`, without masking and without fsdp")
        check_least(self, {"image_side": 1, "frames": 1, "patch_size": 1, "layers": 1})

    def pretraining(self) -> PretrainingConfig:
        """Return the configuration itself."""
        return self


def tower_configs(config: PretrainingConfig) -> tuple[VisionConfig, TextConfig]:
    """Return the towers that a run trains; ConfigError if the model has no text tower."""
    entry = find_model(config.model)
    text, output = find_model(config.text_tower or config.model).text, entry.vision.output_dim
    if text is None or output is None:
        raise ConfigError(f"{config.text_tower or config.model} has no text tower; pretraining needs both")
    vision = dataclasses.replace(
        entry.vision,
        patch_size=config.patch_size or entry.vision.patch_size,
        depth=config.layers or entry.vision.depth,
        rope=config.rope,
        attention_pool=config.attention_pool and entry.vision.attention_pool,
    )
    return vision, dataclasses.replace(text, output_dim=output)
