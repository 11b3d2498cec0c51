"""Count the operations of a frozen teacher, such as distillation's."""

from __future__ import annotations

from torch import Tensor, nn

from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.planning.cost import text_cost, vision_cost


class TeacherCost:
    """Operations of a frozen teacher, by formula for a plan, and counted as it runs.

    `images`, `captions`: shares of the run's pairs of which it encodes them, each caption as long as its context.
    """

    def __init__(self, vision: VisionConfig, text: TextConfig, images: float = 1.0, captions: float = 1.0) -> None:
        self.vision, self.text, self.images, self.captions = vision, text, images, captions
        self._counted = 0.0
        self.pair = images * vision_cost(vision).forward + captions * text_cost(text).forward
        """Operations of a pair, on the mean of the run."""

    def watch(self, model: CLIP) -> None:
        """Count every pass of this model, by its inputs."""

        def count_images(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._counted += len(inputs[0]) * vision_cost(self.vision, inputs[0].shape[-1]).forward

        def count_texts(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._counted += len(inputs[0]) * text_cost(self.text, inputs[0].shape[1]).forward

        model.visual.register_forward_pre_hook(count_images)
        model.text.register_forward_pre_hook(count_texts)

    def take(self) -> float:
        """Return the operations counted since the last call."""
        counted, self._counted = self._counted, 0.0
        return counted
