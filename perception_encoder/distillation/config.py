"""Configure a distillation: the student's pretraining, and its teacher (section 2.4)."""

from __future__ import annotations

from dataclasses import dataclass

from perception_encoder.errors import ConfigError
from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.training.task import MAX_LOGIT_SCALE

TEACHER_LOGIT_SCALE = 2 * MAX_LOGIT_SCALE  # the teacher's temperature is half the student's (appendix C.3)


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(PretrainingConfig):
    """All that decides a distillation's result, but the data itself: the run of the student, and its teacher."""

    teacher: str
    """Name, alias or path of a two-tower model."""
    teacher_logit_scale: float = TEACHER_LOGIT_SCALE
    """The paper's is twice the student's maximum; of a teacher whose own is below 100, twice its own is as sharp."""
    contrastive_weight: float = 0.0
    """Weight of the contrastive loss beside the distillation (the paper has none)."""
    remember: int = 0
    """Images and captions whose teacher's embeddings are cached in memory (4 KiB each for PE-Core-L). An image that is
    not augmented is then encoded by the teacher once in a run, whatever the number of steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masking is not None or self.frames is not None:
            raise ConfigError("a distillation is of whole images; leave masking and frames at null")
