"""Dense tasks of layer analysis: the evaluators of evaluation/dense on features that were extracted once (section 3).

Images are encoded at the encoder's own size, frames of videos with their aspect ratio kept. An image whose target
cannot be decoded, or has nothing to score, counts as one that cannot be decoded itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from perception_encoder.errors import InputError
from perception_encoder.evaluation.layer_evaluator import LayerEvaluator
from perception_encoder.evaluation.layer_features import LayerFeatures, LayerImages
from perception_encoder.layer_analysis.layer_task import LayerScore
from perception_encoder.models.protocols import LayerEncoder

DENSE = "tokens"
"""The `pe embed --pool` for maps."""


class DenseTask:
    """An evaluator of layers, asked of every layer."""

    def __init__(self, evaluator: LayerEvaluator) -> None:
        self.evaluator, self.name = evaluator, evaluator.name

    @property
    def digest(self) -> str:
        """The evaluator's."""
        return self.evaluator.digest

    @property
    def failures(self) -> Sequence[InputError]:
        """The evaluator's."""
        return self.evaluator.failures

    def images(self, encoder: LayerEncoder) -> Sequence[LayerImages]:
        """Return the evaluator's images."""
        return self.evaluator.images(encoder)

    def measure(self, features: Sequence[LayerFeatures]) -> tuple[LayerScore, ...]:
        """Return the evaluator's scores."""
        return LayerScore.all_of(self.evaluator.score(features).scores, DENSE)
