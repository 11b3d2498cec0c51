"""What a pretraining run computes, from formulas: of a pair, of a batch, and how much of a run is done."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.data.pairs import Stage
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.cost import contrastive_flops, text_cost, vision_cost

if TYPE_CHECKING:
    from perception_encoder.pretraining.run import PretrainingConfig


def pair_flops(config: PretrainingConfig, vision: VisionConfig, text: TextConfig, stage: Stage) -> tuple[float, float]:
    """Operations of one pair whose caption fills the context; the same with what is computed once more."""
    saving = {"checkpointing": config.parallel.checkpointing, "chunked": config.parallel.chunk is not None}
    pictures = vision_cost(vision, stage.image_size)
    flops = float(contrastive_flops(stage.batch_size or config.batch_size, vision.output_dim or vision.width))
    again = 0.0
    for tower, count, cost in (("visual", config.frames or 1, pictures), ("text", 1, text_cost(text))):
        trained = config.locked != tower
        flops += count * (cost.training() if trained else cost.forward)
        again += count * cost.recomputed(**saving) if trained else 0
    if config.masking is not None:
        flops += pictures.masked_training() / config.masking.every
        again += pictures.masked_recomputed(**saving) / config.masking.every
    return flops, flops + again


class RunCost:
    """What the loop asks of a run's cost, to tell how well the device is used and when the run will end.

    `texts_kept`: features of captions are looked up (`KeptTexts`).
    """

    def __init__(
        self, config: PretrainingConfig, vision: VisionConfig, text: TextConfig, texts_kept: bool = False
    ) -> None:
        self.config, self.vision, self.text, self.texts_kept = config, vision, text, texts_kept

    def flops(self, batch: ImageTextBatch) -> float:
        """Operations of a rank's part of a batch, forward and backward, without what is computed twice."""
        pictures = vision_cost(self.vision, batch.pictures.shape[-1])
        texts = text_cost(self.text, batch.tokens.shape[1])
        frames = self.config.frames or 1
        loss = contrastive_flops(len(batch), self.vision.output_dim or self.vision.width)
        locked = self.config.locked
        of_text = texts.forward if locked == "text" else texts.training()
        return (
            len(batch.pictures) * frames * (pictures.forward if locked == "visual" else pictures.training())
            + (0 if self.texts_kept else len(batch.tokens) * of_text)
            + (0 if batch.masked is None else len(batch.masked)) * pictures.masked_training()
            + len(batch.pictures) * loss
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
            _, executed = pair_flops(self.config, self.vision, self.text, stage)
            executed -= text_cost(self.text).forward if self.texts_kept else 0
            found.append((stage, executed * (stage.batch_size or self.config.batch_size)))
        return found
