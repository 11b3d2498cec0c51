"""Pull images and their captions together: pretraining's task, of all weights, one tower's, or adapters alone.

`FinetuningConfig.locked` and `lora` decide which parameters are trained (`pretraining.run.Trainee`).
"""

from __future__ import annotations

from perception_encoder.pretraining.task import ContrastiveTask

__all__ = ["ContrastiveTask"]
