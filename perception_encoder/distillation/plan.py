"""Plan a distillation: the student's run, and the passes of its teacher."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from perception_encoder.distillation.config import DistillationConfig
from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.pretraining.plan import plan_pretraining
from perception_encoder.training.cost import BFLOAT16, Phase, StepModel, text_cost, vision_cost


def plan_distillation(config: DistillationConfig, devices: int) -> tuple[list[Phase], str]:
    """Return the phases, and what is assumed; ConfigError for a teacher without a text tower."""
    entry = find_entry(config.teacher)
    if entry.text is None:
        raise ConfigError(f"the teacher is {config.teacher}, which has no text tower; take a Core model")
    images, captions = teacher = teacher_parts(config, entry.vision, entry.text)
    assumed = f"the teacher encodes {images.count:.0%} of the pairs' images and {captions.count:.0%} of the captions"
    if config.remember:
        assumed += f"; of {config.remember:,} embeddings that it caches, half are of images"
    phases, _ = plan_pretraining(config, devices, teacher, entry.vision.image_size)
    return phases, assumed


def teacher_parts(config: DistillationConfig, vision: VisionConfig, text: TextConfig) -> tuple[StepModel, StepModel]:
    """Return the teacher's towers; what it caches it encodes once, an augmented or mixed image is another each time."""
    once = min(1.0, config.remember / 2 / config.samples) if config.remember else 1.0
    same = config.augmentation is None and config.mixing is None
    shares = (vision_cost(vision), once if same else 1.0), (text_cost(text), once)
    images, captions = (StepModel(cost, share, trained=False, beside=BFLOAT16) for cost, share in shares)
    return images, captions


def watch_teacher(model: CLIP) -> Callable[[], float]:
    """Count the passes of a model; return a function that gives their operations since its last call."""
    passes: list[float] = []

    def count_images(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        passes.append(len(inputs[0]) * vision_cost(model.visual.config, inputs[0].shape[-1]).forward)

    def count_texts(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        passes.append(len(inputs[0]) * text_cost(model.text.config, inputs[0].shape[1]).forward)

    def take() -> float:
        total = sum(passes)
        passes.clear()
        return total

    model.visual.register_forward_pre_hook(count_images)
    model.text.register_forward_pre_hook(count_texts)
    return take
