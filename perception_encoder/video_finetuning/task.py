"""Pull videos and their captions together: pretraining's task, on batches whose images are (b, F, 3, H, W).

A video's embedding is the mean of its frames' (`pretraining.towers`).
"""

from __future__ import annotations

from perception_encoder.pretraining.task import ContrastiveTask

__all__ = ["ContrastiveTask"]
