"""What a pretraining run computes, from formulas: of a pair, of a batch, and how much of a run is done."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor, nn

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.data.pairs import Stage
from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.planning.cost import TowerCost, contrastive_flops, text_cost, vision_cost
from perception_encoder.pretraining.lora import adapted_recomputed, adapted_training

if TYPE_CHECKING:
    from perception_encoder.pretraining.run import PretrainingConfig


def pair_flops(
    config: PretrainingConfig,
    vision: VisionConfig,
    text: TextConfig,
    stage: Stage,
    teacher: TeacherCost | None = None,
) -> tuple[float, float]:
    """Operations of one pair whose caption fills the context; the same with what is computed once more."""
    saving = {"checkpointing": config.parallel.checkpointing, "chunked": config.parallel.chunk is not None}
    pictures = vision_cost(vision, stage.image_size)
    flops = float(contrastive_flops(stage.batch_size or config.batch_size, vision.output_dim or vision.width))
    flops += teacher.pair if teacher else 0
    again = 0.0
    for tower, count, cost in (("visual", config.frames or 1, pictures), ("text", 1, text_cost(text))):
        flops += count * _training(config, tower, cost)
        if config.locked != tower and config.lora is not None:
            again += count * adapted_recomputed(config.lora, cost, **saving)
        elif config.locked != tower:
            again += count * cost.recomputed(**saving)
    if config.masking is not None:
        flops += pictures.masked_training() / config.masking.every
        again += pictures.masked_recomputed(**saving) / config.masking.every
    return flops, flops + again


def _training(config: PretrainingConfig, tower: str, cost: TowerCost) -> int:
    """Of one input of a tower, as it is trained: whole, by its adapters, or not at all."""
    if config.locked == tower:
        return cost.forward
    return cost.training() if config.lora is None else adapted_training(config.lora, cost)


class TeacherCost:
    """Operations of a frozen model that a run asks (distillation's teacher): by formula, and counted as it is asked.

    `pictures`, `captions`: shares of the run's pairs of which it encodes them, each caption as long as its context.
    """

    def __init__(self, vision: VisionConfig, text: TextConfig, pictures: float = 1.0, captions: float = 1.0) -> None:
        self.vision, self.text, self.pictures, self.captions = vision, text, pictures, captions
        self._counted = 0.0
        self.pair = pictures * vision_cost(vision).forward + captions * text_cost(text).forward
        """Of a pair, on the mean of the run."""

    def watch(self, model: CLIP) -> None:
        """Count every pass of this model, by what goes in."""

        def saw_pictures(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            self._counted += len(given[0]) * vision_cost(self.vision, given[0].shape[-1]).forward

        def saw_texts(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            self._counted += len(given[0]) * text_cost(self.text, given[0].shape[1]).forward

        model.visual.register_forward_pre_hook(saw_pictures)
        model.text.register_forward_pre_hook(saw_texts)

    def take(self) -> float:
        """What was counted since this was last asked."""
        counted, self._counted = self._counted, 0.0
        return counted


class RunCost:
    """What the loop asks of a run's cost, to tell how well the device is used and when the run will end.

    `vision` has the resolution that is trained at now. `texts_kept`: features of captions are looked up (`KeptTexts`).
    `teacher`: is watched.
    """

    def __init__(
        self,
        config: PretrainingConfig,
        vision: VisionConfig,
        text: TextConfig,
        texts_kept: bool = False,
        teacher: TeacherCost | None = None,
    ) -> None:
        self.config, self.vision, self.text = config, vision, text
        self.texts_kept, self.teacher = texts_kept, teacher

    def flops(self, batch: ImageTextBatch) -> float:
        """Operations of a rank's part of a batch, forward and backward, without what is computed twice.

        A teacher's are those since the last call: it may know a picture already.
        """
        size = min(batch.pictures.shape[-1], self.vision.image_size)  # those for a teacher are scaled down
        pictures = vision_cost(self.vision, size)
        texts = text_cost(self.text, batch.tokens.shape[1])
        frames = self.config.frames or 1
        loss = contrastive_flops(len(batch), self.vision.output_dim or self.vision.width)
        return (
            len(batch.pictures) * frames * _training(self.config, "visual", pictures)
            + (0 if self.texts_kept else len(batch.tokens) * _training(self.config, "text", texts))
            + (0 if batch.masked is None else len(batch.masked)) * pictures.masked_training()
            + len(batch.pictures) * loss
            + (self.teacher.take() if self.teacher else 0)
        )

    def share(self, steps: int) -> float:
        """Share of the run's work that is done after so many steps."""
        done, total, first = 0.0, 0.0, 0
        for stage, cost in self._stages:
            done += cost * min(max(steps - first, 0), stage.steps)
            total += cost * stage.steps
            first += stage.steps
        return done / total

    @cached_property
    def _stages(self) -> list[tuple[Stage, float]]:
        """Stages, and what a step of each costs."""
        found = []
        for stage in self.config.stages:
            _, executed = pair_flops(self.config, self.vision, self.text, stage, self.teacher)
            executed -= text_cost(self.text).forward if self.texts_kept else 0
            found.append((stage, executed * (stage.batch_size or self.config.batch_size)))
        return found
