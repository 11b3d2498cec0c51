"""Compute the operations of a pretraining run from formulas: of a pair, of a batch, and what share of a run is done."""

from __future__ import annotations

from functools import cached_property

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.data.pairs import Stage
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.planning.cost import (
    TeacherCost,
    TowerCost,
    adapted_recomputed,
    adapted_training,
    contrastive_flops,
    text_cost,
    vision_cost,
)
from perception_encoder.pretraining.config import PretrainingConfig


def pair_flops(
    config: PretrainingConfig,
    vision: VisionConfig,
    text: TextConfig,
    stage: Stage,
    teacher: TeacherCost | None = None,
) -> tuple[float, float]:
    """Return operations of one pair whose caption fills the context; and the same with what is recomputed."""
    saving = {"checkpointing": config.parallel.checkpointing, "chunked": config.parallel.chunk is not None}
    images = vision_cost(vision, stage.image_size)
    flops = float(contrastive_flops(stage.batch_size or config.batch_size, vision.output_dim or vision.width))
    flops += teacher.pair if teacher else 0
    again = 0.0
    for tower, count, cost in (("visual", config.frames or 1, images), ("text", 1, text_cost(text))):
        flops += count * _training(config, tower, cost)
        if config.locked != tower and config.lora is not None:
            again += count * adapted_recomputed(config.lora, cost, **saving)
        elif config.locked != tower:
            again += count * cost.recomputed(**saving)
    if config.masking is not None:
        flops += images.masked_training() / config.masking.every
        again += images.masked_recomputed(**saving) / config.masking.every
    return flops, flops + again


def _training(config: PretrainingConfig, tower: str, cost: TowerCost) -> int:
    """Return operations of one input of a tower, as it is trained: whole, by its adapters, or not at all."""
    if config.locked == tower:
        return cost.forward
    return cost.training() if config.lora is None else adapted_training(config.lora, cost)


class RunCost:
    """What a run costs: the loop reports by it how well the device is used and when the run will end.

    `vision` has the resolution that is trained at now. `texts_cached`: captions are looked up (`CachedTexts`).
    `teacher`: is watched.
    """

    def __init__(
        self,
        config: PretrainingConfig,
        vision: VisionConfig,
        text: TextConfig,
        texts_cached: bool = False,
        teacher: TeacherCost | None = None,
    ) -> None:
        self.config, self.vision, self.text = config, vision, text
        self.texts_cached, self.teacher = texts_cached, teacher

    def flops(self, batch: ImageTextBatch) -> float:
        """Return operations of a rank's part of a batch, forward and backward, without recomputation.

        A teacher's are those since the last call: it may have cached an image already.
        """
        size = min(batch.images.shape[-1], self.vision.image_size)  # those for a teacher are scaled down
        images = vision_cost(self.vision, size)
        texts = text_cost(self.text, batch.tokens.shape[1])
        frames = self.config.frames or 1
        loss = contrastive_flops(len(batch), self.vision.output_dim or self.vision.width)
        return (
            len(batch.images) * frames * _training(self.config, "visual", images)
            + (0 if self.texts_cached else len(batch.tokens) * _training(self.config, "text", texts))
            + (0 if batch.masked is None else len(batch.masked)) * images.masked_training()
            + len(batch.images) * loss
            + (self.teacher.take() if self.teacher else 0)
        )

    def share(self, steps: int) -> float:
        """Return the share of the run's work that is done after so many steps."""
        done, total, first = 0.0, 0.0, 0
        for stage, cost in self._stages:
            done += cost * min(max(steps - first, 0), stage.steps)
            total += cost * stage.steps
            first += stage.steps
        return done / total

    @cached_property
    def _stages(self) -> list[tuple[Stage, float]]:
        """Stages, and operations of a step of each."""
        stages = []
        for stage in self.config.stages:
            _, executed = pair_flops(self.config, self.vision, self.text, stage, self.teacher)
            executed -= text_cost(self.text).forward if self.texts_cached else 0
            stages.append((stage, executed * (stage.batch_size or self.config.batch_size)))
        return stages
